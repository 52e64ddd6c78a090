package seal

import (
	"context"
	"fmt"
	"io"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

func providerKey(w *sealpb.Wrapping) ProviderKey { return keyOf(w.GetProviderKey()) }

// wrapAll fills pb for auto mode. Every keystore of the plan has to wrap.
func wrapAll(ctx context.Context, rand io.Reader, masterKey memsec.Secret, c Ceremony, p Plan, keystores *keystore.Registry, pb *sealpb.Record) error {
	for _, k := range p.ProviderKeys {
		w, err := wrapOne(ctx, rand, masterKey, c, k, keystores)
		if err != nil {
			return fmt.Errorf("wrap MasterKey under %s: %w", k, err)
		}
		pb.Wrappings = append(pb.Wrappings, w)
	}
	return nil
}

// wrapOne makes one wrapping of the MasterKey (I6).
func wrapOne(ctx context.Context, rand io.Reader, masterKey memsec.Secret, c Ceremony, k ProviderKey, keystores *keystore.Registry) (*sealpb.Wrapping, error) {
	ctx, cancel := c.limited(ctx)
	defer cancel()
	x, err := c.wrappingBinding().seal(ctx, rand, masterKey, k, keystores)
	if err != nil {
		return nil, err
	}
	return &sealpb.Wrapping{
		ProviderKey: &sealpb.ProviderKey{Provider: k.Provider, Key: string(k.Key)},
		KeyVersion:  x.keyVersion, WrappedKey: x.wrappedKey, Nonce: x.nonce, SealedMasterKey: x.sealed,
		CreateTimeUnixNano: c.Time.UnixNano(),
	}, nil
}

// openWrapping opens one wrapping and returns the MasterKey only if it matches
// the commitment (I2).
func openWrapping(ctx context.Context, r Record, w *sealpb.Wrapping, keystores *keystore.Registry) (memsec.Secret, error) {
	masterKey, err := r.ceremony().wrappingBinding().open(ctx, boxOfWrapping(w), providerKey(w), keystores)
	if err != nil {
		return memsec.Secret{}, err
	}
	if err := checkCommitment(r, masterKey); err != nil {
		masterKey.Destroy()
		return memsec.Secret{}, err
	}
	return masterKey, nil
}

func boxOfWrapping(w *sealpb.Wrapping) box {
	return box{keyVersion: w.GetKeyVersion(), wrappedKey: w.GetWrappedKey(), nonce: w.GetNonce(), sealed: w.GetSealedMasterKey()}
}

func (c Ceremony) wrappingBinding() binding {
	return binding{outer: c.aad("krypton/v1/seal-auto"), inner: c.aad("krypton/v1/seal-masterkey")}
}

// ceremony returns what the associated data of the record's ciphertexts is made of.
func (r Record) ceremony() Ceremony {
	return Ceremony{Keyspace: r.Keyspace(), Cluster: r.Cluster(), ID: r.Ceremony(), Generation: r.Generation()}
}

// aad binds a wrapping to its keyspace, seal and generation.
func (c Ceremony) aad(purpose string) []byte {
	return label(purpose).part(c.Keyspace[:]).part(c.ID[:]).u32(8).u64(uint64(c.Generation))
}
