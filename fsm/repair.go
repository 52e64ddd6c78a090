package fsm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Limits of the ciphertexts in a seal record that is repaired or staged. They are those of package seal,
// which reads the record and knows more: what passes here and not there would make every
// node refuse the record, and no ceremony could replace it.
const (
	maxWrappedKeyBytes  = 16 << 10
	maxKeyVersionBytes  = 1024
	wrappingNonceBytes  = 12
	sealedMasterKeySize = 32 + 16
	sealedShareSize     = 33 + 16
	maxShardBytes       = 32 << 10
)

// repairSeal replaces wrappings of the MasterKey (I31).
//
// Whether a new wrapping opens nobody here can see: it takes the keystore. A leader that
// lies, and has the MasterKey to vouch for the entry, gains no access by junk, because who
// may open is the manifest's to say; but junk in the place of every wrapping, at once or
// one after the other, would end the keyspace at the next start of all nodes. So from
// [FormatSealProof] on what replaces a wrapping was opened by two members, as they sign.
// That one wrapping may change at a time, or one in so many days, was rejected: a leader
// that lies has time. Before that format its own word counts.
func (t *tx) repairSeal(c *fsmpb.RepairSeal) (done, error) {
	switch base := sha256.Sum256(t.cluster.GetSealRecord()); {
	case t.cluster.GetFormatVersion() < FormatCeremonies:
		return done{}, errs.New(errs.FailedState, "the format version of this cluster is older than repairs of its seal",
			errs.Hint("upgrade every node; the leader raises the format version when all members support it"))
	case len(c.GetRecord()) > MaxSealRecordBytes:
		return done{}, invalid("the seal record is too large")
	case !bytes.Equal(base[:], c.GetBase()):
		return done{}, moved("the seal record")
	}
	was, err := decodeSealRecord(t.cluster.GetSealRecord())
	if err != nil {
		return done{}, errs.New(errs.FailedState, "the seal record that this cluster has cannot be repaired: "+err.Error())
	}
	now, err := decodeSealRecord(c.GetRecord())
	if err == nil {
		err = t.repairs(was, now, c)
	}
	if err != nil {
		return done{}, invalid("this is no repair of the seal record: " + err.Error())
	}
	cl := copyCluster(t.cluster)
	cl.SealRecord = bytes.Clone(c.GetRecord())
	t.cluster = cl
	return done{object: "cluster"}, nil
}

func decodeSealRecord(b []byte) (*sealpb.Record, error) {
	r := &sealpb.Record{}
	if err := unmarshal(b, r); err != nil {
		return nil, errors.New("it does not decode")
	}
	if hasUnknown(r.ProtoReflect()) {
		return nil, errors.New("it has fields that this release does not know")
	}
	return r, nil
}

// repairs returns why now is not was with other wrappings.
func (t *tx) repairs(was, now *sealpb.Record, c *fsmpb.RepairSeal) error {
	rest := proto.CloneOf(now)
	rest.Wrappings = was.GetWrappings()
	if !proto.Equal(rest, was) {
		return errors.New("more than its wrappings is another")
	}
	if was.GetManifest().GetMode() != sealpb.Mode_MODE_AUTO {
		return errors.New("it is not opened by keystores alone")
	}
	before := map[string]*sealpb.Wrapping{}
	for _, w := range was.GetWrappings() {
		before[sealKey(w.GetProviderKey())] = w
	}
	allowed := map[string]bool{}
	for _, k := range was.GetManifest().GetProviderKeys() {
		allowed[sealKey(k)] = true
	}
	changed := 0
	var replaced []*sealpb.Wrapping
	for _, w := range now.GetWrappings() {
		key := sealKey(w.GetProviderKey())
		if !allowed[key] {
			return errors.New("a wrapping is by a key that the manifest does not name, or there are two by one key")
		}
		delete(allowed, key)
		old := before[key]
		delete(before, key)
		if old != nil && proto.Equal(old, w) {
			continue
		}
		changed++
		if old != nil {
			replaced = append(replaced, w)
		}
		if err := checkWrapping(w); err != nil {
			return err
		}
		if at := w.GetCreateTimeUnixNano(); old != nil && at <= old.GetCreateTimeUnixNano() {
			return errors.New("a wrapping is older than the one that it replaces")
		} else if at/int64(time.Millisecond) > min(t.timeMS, math.MaxInt64/int64(time.Millisecond)) {
			return errors.New("a wrapping is from the future")
		}
	}
	switch {
	case len(before) > 0:
		return errors.New("a wrapping is gone")
	case changed == 0:
		return errors.New("nothing changes")
	}
	return t.witnessed(c, replaced, len(was.GetWrappings()))
}

func checkWrapping(w *sealpb.Wrapping) error {
	switch {
	case len(w.GetWrappedKey()) < 1 || len(w.GetWrappedKey()) > maxWrappedKeyBytes:
		return fmt.Errorf("a wrapped key of %d bytes, the limits are 1 and %d", len(w.GetWrappedKey()), maxWrappedKeyBytes)
	case len(w.GetKeyVersion()) > maxKeyVersionBytes:
		return fmt.Errorf("a key version of %d bytes", len(w.GetKeyVersion()))
	case len(w.GetNonce()) != wrappingNonceBytes || len(w.GetSealedMasterKey()) != sealedMasterKeySize:
		return errors.New("the nonce or the sealed MasterKey has another length")
	}
	return nil
}

// sealKey names a key of a keystore. A name of a keystore has no zero byte, because
// it is a label; so no two pairs have one text.
func sealKey(k *sealpb.ProviderKey) string { return k.GetProvider() + "\x00" + k.GetKey() }
