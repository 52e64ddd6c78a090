package fsm

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Limits of exposures.
const (
	// MaxBackups is how many backups are remembered; the oldest give way.
	MaxBackups = 100
	// maxExposedKeys bounds the keys of keystores of the seals that were replaced: of one
	// that was exposed before the one before it was dealt with both are named.
	maxExposedKeys = 1024
)

const exposureHint = "read what is left: krypton ceremony status"

// After an exposure (I38) the leader does one thing after the other, and any leader goes
// on where another one stopped: what is left is read from the state, never remembered.
//
//  1. with the commit: MasterKey, internal key, CAs; join tokens are gone
//  2. every tenant and secret from before is wrapped under the new internal key
//  3. the internal keys from before are destroyed: from that entry on the state has nothing
//     that the old MasterKey leads to, and what is on disks from before it has
//  4. each member says that its disk has nothing from before that entry
//  5. the record carries no key of an earlier MasterKey: nobody needs one any more
//  6. the CAs from before have retired

// knowsKind refuses a kind of ceremony to which this cluster has not been raised.
func (t *tx) knowsKind(k fsmpb.CeremonyKind) error {
	if k == exposed && t.cluster.GetFormatVersion() < FormatSealProof {
		return errs.New(errs.FailedState, "the format version of this cluster is older than rekeys of an exposed MasterKey", errs.Hint("upgrade every node; the leader raises the format version when all members support it"))
	}
	return nil
}

// checkNewKey checks by itself what only a rekey of an exposed MasterKey brings: the
// internal key that comes next, and CAs under it in place of all that the cluster has.
func (t *tx) checkNewKey(c *fsmpb.Ceremony, r *fsmpb.StagedRekey) error {
	key, cas := r.GetNewInternalKey(), r.GetNewAuthorities()
	if c.GetKind() != exposed {
		if key != nil || len(cas) > 0 {
			return invalid("only a rekey of an exposed MasterKey brings an internal key and CAs")
		}
		return nil
	}
	if t.cluster.GetFormatVersion() < FormatSealProof {
		return invalid("the cluster is of an older format version")
	}
	number := uint32(len(t.cluster.GetInternalKeys())) + 1 //nolint:gosec // At most hierarchy.MaxVersions.
	if err := material(key, number, nil, "the MasterKey"); err != nil {
		return err
	}
	if len(key.GetUid()) != hierarchy.UIDSize || uidOf(key.GetUid()).IsZero() {
		return invalid("a uid is not 16 random bytes")
	}
	if !slices.EqualFunc(cas, authorities, func(s *fsmpb.Secret, name string) bool { return s.GetName() == name }) {
		return invalid("a rekey of an exposed MasterKey brings every CA of the cluster, in order")
	}
	for _, s := range cas {
		if len(s.GetBlob()) == 0 || len(s.GetBlob()) > MaxBlobBytes || len(s.GetPublic()) == 0 || len(s.GetPublic()) > MaxPublicBytes || len(s.GetCrossCertificate()) > MaxPublicBytes ||
			!bytes.Equal(s.GetIvkUid(), key.GetUid()) || s.GetModIndex() != 0 || len(s.GetPrevious()) > 0 || len(s.GetLineage()) > 0 {
			return invalid("a CA of the rekey is not wrapped under its internal key, or says what the registry says")
		}
		if err := checkCA(s); err != nil {
			return err
		}
	}
	return nil
}

// checkReplaced refuses an internal key with an identity that was used, and CAs that the
// commit would refuse.
func (t *tx) checkReplaced(r *fsmpb.StagedRekey) error {
	if r.GetNewInternalKey() == nil {
		return nil
	}
	if _, used := lookup[uidOwner](t.txn, tableUIDs, indexID, r.GetNewInternalKey().GetUid()); used {
		return hierarchy.RefusedReusedUID.Err("the internal key")
	}
	for _, s := range r.GetNewAuthorities() {
		if was, ok := lookup[*fsmpb.Secret](t.txn, tableSecrets, indexID, []byte(s.GetName())); !ok || sameKeyIn(was.GetPublic(), s.GetPublic()) {
			return invalid("a CA of the rekey does not take the place of one of the cluster")
		}
	}
	return nil
}

// beginExposure does what has to be done in the entry that brings the new MasterKey into
// force: from here on nothing is wrapped under what the old one wrapped.
func (t *tx) beginExposure(c *fsmpb.Ceremony) error {
	if c.GetKind() != exposed {
		return nil
	}
	key := c.GetRekey().GetNewInternalKey()
	o := owner{kind: ofCluster, cluster: t.cluster}
	is, r := t.chainOf(o).Rotate(uidOf(key.GetUid()), at(t.timeMS), hierarchy.TriggerSchedule)
	if r != hierarchy.NotRefused {
		return r.Err("the internal key")
	}
	if err := t.claim(uidOwner{uid: string(key.GetUid()), kind: uidInternalKey, number: key.GetNumber()}); err != nil {
		return err
	}
	t.storeChain(o, is, key)
	for _, s := range c.GetRekey().GetNewAuthorities() {
		if err := t.replaceAuthority(s, DefaultOverlapMS); err != nil {
			return err
		}
	}
	t.forgetTokens()
	was, err := t.sealRecord()
	if err != nil {
		return err
	}
	keys := exposedKeys(was)
	before := t.cluster.GetExposure()
	if before != nil && before.GetDoneTimeMs() == 0 {
		// What the one before asked people to do may still be to be done.
		for _, k := range before.GetProviderKeys() {
			if len(keys) < maxExposedKeys && !slices.ContainsFunc(keys, func(o *fsmpb.ExposedKey) bool { return proto.Equal(o, k) }) {
				keys = append(keys, k)
			}
		}
	}
	cl := copyCluster(t.cluster)
	cl.Exposure = &fsmpb.Exposure{
		CeremonyId: c.GetId(), Generation: uint64(GenerationOf(t.cluster)), BeginIndex: t.index, BeginTimeMs: t.timeMS,
		InternalKey: key.GetNumber(), ProviderKeys: keys, Backups: t.cluster.GetBackups(),
	}
	cl.SealConfirmations = append(slices.Clone(cl.GetSealConfirmations()), confirmationOf(c, c.GetConfirmedBy()))
	t.cluster = cl
	return nil
}

// exposedKeys returns the keys of keystores that protect the MasterKey of a record, or
// shares of it, with their versions.
func exposedKeys(r *sealpb.Record) (keys []*fsmpb.ExposedKey) {
	for _, w := range r.GetWrappings() {
		keys = append(keys, &fsmpb.ExposedKey{Provider: w.GetProviderKey().GetProvider(), Key: w.GetProviderKey().GetKey(), KeyVersion: w.GetKeyVersion()})
	}
	for i, h := range r.GetManifest().GetHolders() {
		if h.GetProviderKey() == nil || i >= len(r.GetShards()) {
			continue
		}
		s := &sealpb.KeystoreShard{}
		if unmarshal(r.GetShards()[i].GetEncryptedShard(), s) != nil {
			continue // it was refused when it was staged
		}
		keys = append(keys, &fsmpb.ExposedKey{Holder: h.GetName(), Provider: h.GetProviderKey().GetProvider(), Key: h.GetProviderKey().GetKey(), KeyVersion: s.GetKeyVersion()})
	}
	return keys
}

// exposure returns a copy of the exposure that is not done, which changes with the command.
func (t *tx) exposure(ceremony []byte) (*fsmpb.Exposure, error) {
	e := t.cluster.GetExposure()
	switch {
	case e == nil || !bytes.Equal(e.GetCeremonyId(), ceremony):
		return nil, errs.New(errs.FailedState, "there is no exposure of that ceremony, or there was another one since", errs.Hint(exposureHint))
	case e.GetDoneTimeMs() != 0:
		return nil, errs.New(errs.FailedState, "everything is done already", errs.Hint(exposureHint))
	}
	return proto.CloneOf(e), nil
}

// storeExposure puts a changed exposure into the cluster. It moves no mod_index: nobody
// who signs for the cluster or its seal depends on how far it is.
func (t *tx) storeExposure(e *fsmpb.Exposure) {
	cl := copyCluster(t.cluster)
	cl.Exposure = e
	t.cluster = cl
}

// endInternalKeys destroys the internal keys from before under which nothing is left.
// There is no wait: whoever has the old MasterKey has them, so only the cluster itself
// would lose what was kept back.
func (t *tx) endInternalKeys(b *fsmpb.EndInternalKeys) (done, error) {
	e, err := t.exposure(b.GetCeremonyId())
	if err != nil {
		return done{}, err
	}
	now, ended, left := at(t.timeMS), 0, 0
	o := owner{kind: ofCluster, cluster: t.cluster}
	is := t.chainOf(o)
	for _, v := range exposedVersions(t.cluster) {
		if ivkUsed(t.txn, v.GetUid()) {
			left++
			continue
		}
		n := hierarchy.VersionNumber(v.GetNumber())
		next, r := is.Change(n, hierarchy.Occurrence{Event: hierarchy.EventScheduleDestroy, At: now})
		if r == hierarchy.NotRefused {
			next, r = next.Change(n, hierarchy.Occurrence{Event: hierarchy.EventDestroy, At: now})
		}
		if r != hierarchy.NotRefused {
			return done{}, r.Err("the internal key version")
		}
		is = next
		ended++
	}
	if ended == 0 && (left > 0 || e.GetClearIndex() != 0) {
		return done{}, errs.New(errs.FailedState, "no internal key from before is left, or something is wrapped under each", errs.Hint(exposureHint))
	}
	if ended > 0 {
		t.storeChain(o, is, nil)
	}
	if left == 0 { // people, or a tick, may have destroyed the last one
		e.ClearIndex = t.index
		t.storeExposure(e)
	}
	return done{object: o.name()}, nil
}

// exposedVersions returns the internal keys that an exposed MasterKey wrapped and that have
// material.
func exposedVersions(cl *fsmpb.Cluster) (vs []*fsmpb.Version) {
	for _, v := range cl.GetInternalKeys() {
		if v.GetNumber() < cl.GetExposure().GetInternalKey() && len(v.GetBlob()) > 0 {
			vs = append(vs, v)
		}
	}
	return vs
}

// memberCleared notes that a member's disk holds nothing from before the last internal key
// went. It is the member's word, which the leader passes on.
func (t *tx) memberCleared(b *fsmpb.MemberCleared) (done, error) {
	e, err := t.exposure(b.GetCeremonyId())
	if err != nil {
		return done{}, err
	}
	m, ok := lookup[*fsmpb.Member](t.txn, tableMembers, indexID, []byte(b.GetNodeId()))
	switch {
	case !ok || m.GetRemoved():
		return done{}, errs.NoSuchObject()
	case e.GetClearIndex() == 0:
		return done{}, errs.New(errs.FailedState, "the state itself has something left from before", errs.Hint(exposureHint))
	case b.GetOldestIndex() < e.GetClearIndex():
		return done{}, errs.New(errs.FailedState, "the member's disk has something left from before", errs.Hint(exposureHint))
	}
	if i, already := slices.BinarySearch(e.GetCleared(), m.GetId()); !already {
		e.Cleared = slices.Insert(e.GetCleared(), i, m.GetId())
		t.storeExposure(e)
	}
	return done{object: nodeName(m.GetId())}, nil
}

// uncleared returns the ids of the members that may hold something from before, ascending.
func uncleared(s state, e *fsmpb.Exposure) (ids []string) {
	scan(s.txn, tableMembers, indexID, nil, nil, func(m *fsmpb.Member) bool {
		if _, ok := slices.BinarySearch(e.GetCleared(), m.GetId()); !m.GetRemoved() && !ok {
			ids = append(ids, m.GetId())
		}
		return true
	})
	return ids
}

// dropCarried takes the keys of earlier MasterKeys out of the seal record. A member may
// need them to prove what its own disk holds, so all are cleared before.
func (t *tx) dropCarried(b *fsmpb.DropCarried) (done, error) {
	e := t.cluster.GetExposure()
	if e == nil || e.GetDoneTimeMs() != 0 || e.GetCarriedDroppedTimeMs() != 0 {
		return done{}, errs.New(errs.FailedState, "no key of an earlier MasterKey is to be dropped", errs.Hint(exposureHint))
	}
	if base := sha256.Sum256(t.cluster.GetSealRecord()); !bytes.Equal(base[:], b.GetBase()) {
		return done{}, moved("the seal")
	}
	if e.GetClearIndex() == 0 || len(uncleared(state{txn: t.txn}, e)) > 0 {
		return done{}, errs.New(errs.FailedState, "a member may need the keys of earlier MasterKeys for what is on its disk", errs.Hint(exposureHint))
	}
	want, err := withoutExposed(t.cluster)
	if err != nil {
		return done{}, errs.New(errs.FailedState, errs.From(err).Msg)
	}
	now, err := manifest.Parse(b.GetRecord())
	if err != nil {
		return done{}, errs.New(errs.InvalidArgument, err.Error())
	}
	if len(b.GetRecord()) > MaxSealRecordBytes || !proto.Equal(want, now) {
		return done{}, invalid("the record differs from the seal's in more than the keys of earlier MasterKeys")
	}
	is := proto.CloneOf(e)
	is.CarriedDroppedTimeMs = t.timeMS
	cl := copyCluster(t.cluster)
	cl.SealRecord, cl.Exposure = bytes.Clone(b.GetRecord()), is
	t.cluster = cl
	return done{object: "seal"}, nil
}

// WithoutExposed returns the seal record of a cluster, encoded, without the keys of
// MasterKeys before the last exposure: what DropCarried brings.
func WithoutExposed(cl *fsmpb.Cluster) ([]byte, error) {
	r, err := withoutExposed(cl)
	if err != nil {
		return nil, err
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return nil, corruptLineage("its record does not encode")
	}
	return b, nil
}

// withoutExposed keeps the keys of later MasterKeys: what was written since is proved by
// them. Apply compares messages, since two releases may encode one alike or not.
func withoutExposed(cl *fsmpb.Cluster) (*sealpb.Record, error) {
	r, err := manifest.Parse(cl.GetSealRecord())
	if err != nil {
		return nil, corruptLineage(err.Error())
	}
	r.CarriedKeys = slices.DeleteFunc(r.GetCarriedKeys(), func(k *sealpb.CarriedKey) bool { return k.GetGeneration() < cl.GetExposure().GetGeneration() })
	return r, nil
}

// finishExposure ends an exposure, when nothing is left (I38). What it asks is asked of
// the state, not of who says so.
func (t *tx) finishExposure(b *fsmpb.FinishExposure) (done, error) {
	e, err := t.exposure(b.GetCeremonyId())
	if err != nil {
		return done{}, err
	}
	for _, left := range []struct {
		is   bool
		what string
	}{
		{e.GetClearIndex() == 0 || len(exposedVersions(t.cluster)) > 0, "an internal key that the old MasterKey wrapped is left"},
		{len(uncleared(state{txn: t.txn}, e)) > 0, "a member has not said that its disk holds nothing from before"},
		{e.GetCarriedDroppedTimeMs() == 0, "the seal record carries keys of earlier MasterKeys"},
		{len(retiringNow(state{txn: t.txn}, t.timeMS)) > 0, "a CA from before is still trusted"},
	} {
		if left.is {
			return done{}, errs.New(errs.FailedState, "the exposure is not over: "+left.what, errs.Hint(exposureHint))
		}
	}
	e.DoneTimeMs = t.timeMS
	t.storeExposure(e)
	return done{object: "seal"}, nil
}

// RetiringCA is a CA of the cluster that was replaced and is still trusted.
type RetiringCA struct {
	Name string // of the internal secret
	// Certificate of the one that retires, DER.
	Certificate []byte
	Until       time.Time
}

func retiringNow(s state, nowMS int64) (all []RetiringCA) {
	for _, name := range authorities {
		ca, _ := lookup[*fsmpb.Secret](s.txn, tableSecrets, indexID, []byte(name))
		for _, p := range ca.GetPrevious() {
			if p.GetRetireTimeMs() > nowMS {
				all = append(all, RetiringCA{Name: name, Certificate: p.GetCertificate(), Until: at(p.GetRetireTimeMs())})
			}
		}
	}
	return all
}

// noteBackup remembers that a member made a backup.
func (t *tx) noteBackup(b *fsmpb.Backup) (done, error) {
	if m, ok := lookup[*fsmpb.Member](t.txn, tableMembers, indexID, []byte(b.GetNode())); !ok || m.GetRemoved() {
		return done{}, invalid("a backup is made by a member")
	}
	if b.GetIndex() == 0 || b.GetIndex() >= t.index {
		return done{}, invalid("a backup has a state that was there before it is noted")
	}
	is := &fsmpb.Backup{
		TimeMs: t.timeMS, Index: b.GetIndex(), Node: b.GetNode(), By: proto.CloneOf(t.cmd.GetPrincipal()),
		Generation: uint64((&View{meta: t.meta}).GenerationAt(b.GetIndex())),
	}
	all := t.cluster.GetBackups()
	cl := copyCluster(t.cluster)
	cl.Backups = append(slices.Clone(all[max(0, len(all)+1-MaxBackups):]), is)
	t.cluster = cl
	return done{object: "cluster"}, nil
}

// Exposed is how far the cluster is with replacing what an exposed MasterKey opened.
type Exposed struct {
	// Exposure is that of the registry; it must not be changed.
	Exposure *fsmpb.Exposure
	// TenantsTotal counts the tenants that have a key, TenantsLeft those of them whose key is
	// under an internal key from before.
	TenantsTotal, TenantsLeft int
	// SecretsLeft counts the internal secrets under an internal key from before.
	SecretsLeft int
	// KeysLeft counts the internal keys from before that are not destroyed.
	KeysLeft int
	// ClearIndex is the index from before which nothing may be left on the disk of a member;
	// 0: it is not known before everything above is 0.
	ClearIndex uint64
	// MembersLeft are the ids of the members that have not said so, in ascending order.
	MembersLeft []string
	// CarriedLeft counts the keys of earlier MasterKeys that the seal record carries.
	CarriedLeft int
	// Retiring are the CAs from before that are still trusted.
	Retiring []RetiringCA
	// Done says when everything was done; zero: it is not.
	Done time.Time
}

// Exposure returns how far the last exposure is; false: there never was one.
func (v *View) Exposure() (Exposed, bool) {
	e := v.cluster.GetExposure()
	if e == nil {
		return Exposed{}, false
	}
	x := Exposed{
		Exposure: e, ClearIndex: e.GetClearIndex(), MembersLeft: uncleared(v.state, e), Retiring: retiringNow(v.state, v.timeMS), Done: at(e.GetDoneTimeMs()),
	}
	for _, version := range v.cluster.GetInternalKeys() {
		n := 0
		scan(v.txn, tableTenants, indexIVK, version.GetUid(), nil, func(*fsmpb.Tenant) bool { n++; return true })
		x.TenantsTotal += n
		if version.GetNumber() >= e.GetInternalKey() {
			continue
		}
		x.TenantsLeft += n
		scan(v.txn, tableSecrets, indexIVK, version.GetUid(), nil, func(*fsmpb.Secret) bool { x.SecretsLeft++; return true })
	}
	x.KeysLeft = len(exposedVersions(v.cluster))
	if r, err := manifest.Parse(v.cluster.GetSealRecord()); err == nil && e.GetCarriedDroppedTimeMs() == 0 {
		for _, k := range r.GetCarriedKeys() {
			if k.GetGeneration() < e.GetGeneration() {
				x.CarriedLeft++
			}
		}
	}
	return x, true
}

// UnderExposed returns up to limit tenants and up to limit internal secrets that are
// wrapped under an internal key from before the exposure that is not done.
func (v *View) UnderExposed(limit int) (tenants []*fsmpb.Tenant, secrets []*fsmpb.Secret) {
	if v.cluster.GetExposure().GetDoneTimeMs() != 0 {
		return nil, nil
	}
	for _, version := range exposedVersions(v.cluster) {
		scan(v.txn, tableTenants, indexIVK, version.GetUid(), nil, func(t *fsmpb.Tenant) bool {
			if len(tenants) < limit {
				tenants = append(tenants, t)
			}
			return len(tenants) < limit
		})
		scan(v.txn, tableSecrets, indexIVK, version.GetUid(), nil, func(s *fsmpb.Secret) bool {
			if len(secrets) < limit {
				secrets = append(secrets, s)
			}
			return len(secrets) < limit
		})
	}
	return tenants, secrets
}
