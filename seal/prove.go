package seal

import (
	"context"
	"fmt"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
)

// Prove asks one keystore of a record to open what it holds, compares that with the
// manifest and wipes it: holder is the number of a share, or in auto mode the place,
// from 1, of a provider key in the manifest. A record takes the place of another only
// after its holders proved themselves. The error of a keystore is a [*keystore.Error];
// a holder that is a person, or none, gives errs.FailedState or errs.NotFound.
func Prove(ctx context.Context, r Record, holder int, keystores *keystore.Registry) error {
	if r.Mode() != ModeAuto {
		s, err := openShard(ctx, r, holder, keystores)
		if err == nil {
			s.Destroy()
		}
		return err
	}
	keys := r.pb.GetManifest().GetProviderKeys()
	if holder < 1 || holder > len(keys) {
		return errs.New(errs.NotFound, fmt.Sprintf("there is no keystore %d; there are %d", holder, len(keys)), errs.Cause(ErrNoShard))
	}
	for _, w := range r.pb.GetWrappings() {
		if providerKey(w) != keyOf(keys[holder-1]) {
			continue
		}
		mk, err := openWrapping(ctx, r, w, keystores)
		if err == nil {
			mk.Destroy()
		}
		return err
	}
	return errs.New(errs.NotFound, fmt.Sprintf("keystore %d has no wrapping in the record", holder), errs.Cause(ErrNoShard))
}
