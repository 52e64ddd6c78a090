package fsm

import (
	"bytes"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// putSecret puts a new internal secret, or wraps one that is there again.
//
// The public part of a secret is what everybody believes of it: for a CA, whose
// callers and nodes the cluster takes for its own. Were it replaced in one
// command, a leader that lies, or whoever found a way to propose, would be the
// cluster's CA from that entry on, and no replica could tell. So it stays (I15),
// but for a CA of the cluster that is replaced as people order it (I40).
//
// That the new blob holds the same secret nobody here can see. One that does not
// open, or whose key does not fit the certificate, is refused by whoever wants to
// sign with it: a leader that lies can stop certificates, and not forge them.
func (t *tx) putSecret(s *fsmpb.Secret) (done, error) {
	if err := t.checkSecret(s); err != nil {
		return done{}, err
	}
	was, ok := lookup[*fsmpb.Secret](t.txn, tableSecrets, indexID, []byte(s.GetName()))
	switch {
	case ok && !bytes.Equal(was.GetPublic(), s.GetPublic()):
		return done{}, errs.New(errs.FailedState, "the public part of an internal secret never changes",
			errs.Hint("wrap the secret again with the public part it has, or put another one under a new name"))
	case !ok && t.secrets >= MaxSecrets:
		return done{}, limit("internal secrets", MaxSecrets)
	}
	if err := t.ivkInForce(s.GetIvkUid()); err != nil {
		return done{}, err
	}
	if !ok {
		t.secrets++
	}
	t.storeSecret(s, was)
	return done{object: "internalSecrets/" + s.GetName()}, nil
}

func (t *tx) checkSecret(s *fsmpb.Secret) error {
	if err := checkName(s.GetName()); err != nil {
		return err
	}
	if len(s.GetBlob()) == 0 || len(s.GetBlob()) > MaxBlobBytes || len(s.GetPublic()) > MaxPublicBytes {
		return invalid("the wrapped secret is missing, or it or its public part is too large")
	}
	if len(s.GetPrevious()) != 0 || len(s.GetCrossCertificate()) != 0 || len(s.GetLineage()) != 0 {
		return invalid("only a CA that is replaced has one before it")
	}
	return nil
}

// storeSecret stores a secret, in place of was if there was one: what is known of a CA
// besides its key stays.
func (t *tx) storeSecret(s, was *fsmpb.Secret) {
	put(t, tableSecrets, &fsmpb.Secret{
		Name: s.GetName(), IvkUid: s.GetIvkUid(), Blob: s.GetBlob(), Public: s.GetPublic(), ModIndex: t.index,
		Previous: was.GetPrevious(), CrossCertificate: was.GetCrossCertificate(), Lineage: was.GetLineage(),
	})
}
