package seal

import (
	"crypto"
	"crypto/hpke"
	"errors"
	"fmt"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

// SealedMasterKeySize is the size in bytes of a MasterKey on its way to a node: the
// encapsulated key of X-Wing, the MasterKey, and the tag.
const SealedMasterKeySize = 1120 + memsec.KeySize + 16

// ErrHandover is the cause when what came is no MasterKey for this start of this node and
// that record (errs.FailedState). A node that was started again has another start key.
var ErrHandover = errors.New("sealed MasterKey does not open")

// SealMasterKey encrypts the MasterKey of a record that is staged to the node that made the
// offer, so that it serves on when the record comes into force. It refuses a MasterKey
// that is not the record's, and an offer that is not signed by member, the node's member
// key as the registry has it. The result has [SealedMasterKeySize] bytes, and opens on that
// start of that node only, and for that record only (I14).
//
// It is for a rekey and nothing else: a node that was sealed gets no MasterKey by it. Whether
// who made the offer has the MasterKey before, the caller looks; the signature does not
// say it.
func SealMasterKey(o Offer, member crypto.PublicKey, r Record, masterKey memsec.Secret) ([]byte, error) {
	if err := o.Target.check(); err != nil {
		return nil, err
	}
	if err := o.Verify(member); err != nil {
		return nil, err
	}
	if err := checkCommitment(r, masterKey); err != nil {
		return nil, err
	}
	kem, kdf, aead := suite()
	public, err := kem.NewPublicKey(o.Public)
	if err != nil {
		return nil, errs.New(errs.Unauthenticated, "the key that the node offers is not a key", errs.Cause(errors.Join(ErrOffer, err)))
	}
	var sealed []byte
	err = reveal.With(masterKey, func(b []byte) error {
		sealed, err = hpke.Seal(public, kdf, aead, o.Target.handover(r), b)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("seal MasterKey for a node: %w", err)
	}
	return sealed, nil
}

// OpenMasterKey opens what [SealMasterKey] made for this key and that record. The MasterKey
// is compared with the commitment in the record (I2); the caller owns it.
func (k *StartKey) OpenMasterKey(sealed []byte, r Record) (memsec.Secret, error) {
	refuse := func() (memsec.Secret, error) {
		return memsec.Secret{}, errs.New(errs.FailedState, "the MasterKey was not encrypted to this start of this node",
			errs.Hint("the node opens the new seal when it comes into force, as at any start"), errs.Cause(ErrHandover))
	}
	if len(sealed) != SealedMasterKeySize {
		return refuse()
	}
	_, kdf, aead := suite()
	b, err := hpke.Open(k.private, kdf, aead, k.target.handover(r), sealed)
	if err != nil {
		return refuse()
	}
	masterKey, err := memsec.Take(b, memsec.Cold) // wipes b
	if err != nil {
		return memsec.Secret{}, fmt.Errorf("keep the MasterKey: %w", err)
	}
	if err := checkCommitment(r, masterKey); err != nil {
		masterKey.Destroy()
		return memsec.Secret{}, err
	}
	return masterKey, nil
}

// handover binds a sealed MasterKey to its target and its record. The label is another one
// than that of shares: what was sealed as the one is not opened as the other.
func (t Target) handover(r Record) []byte {
	digest := r.ManifestDigest()
	return label("krypton/v1/masterkey-handover").part(t.Cluster[:]).part([]byte(t.Node)).part(digest[:])
}
