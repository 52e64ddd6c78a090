package keystore

import (
	"errors"
	"fmt"

	"github.com/openkcm/krypton-cluster/memsec"
)

// Check returns the [*Error] of the named provider for a request that breaks
// the contract, or nil. Every provider calls it first, so that the limits and
// their classes are the same everywhere.
func (r WrapRequest) Check(provider string) error {
	fail := failer(provider, OpWrap, r.Key)
	if err := checkKeyAndAAD(r.Key, r.AAD); err != nil {
		return fail(Misconfigured, err)
	}
	if r.Secret.IsZero() {
		return fail(Misconfigured, errors.New("no secret to wrap"))
	}
	if n := r.Secret.Len(); n < 1 || n > MaxSecret {
		return fail(Misconfigured, fmt.Errorf("secret of %d bytes, the limit is %d", n, MaxSecret))
	}
	return nil
}

// Check is [WrapRequest.Check] for unwrapping. A blob outside the limits is
// [Corrupt]: no keystore made it.
func (r UnwrapRequest) Check(provider string) error {
	fail := failer(provider, OpUnwrap, r.Key)
	if err := checkKeyAndAAD(r.Key, r.AAD); err != nil {
		return fail(Misconfigured, err)
	}
	if r.Class != memsec.Cold && r.Class != memsec.Hot {
		return fail(Misconfigured, errors.New("no memory class given for the secret"))
	}
	if n := len(r.Blob); n < 1 || n > MaxBlob {
		return fail(Corrupt, fmt.Errorf("blob of %d bytes, the limits are 1 and %d", n, MaxBlob))
	}
	return nil
}

// Check is [WrapRequest.Check] for describing.
func (r DescribeRequest) Check(provider string) error {
	if err := checkKey(r.Key); err != nil {
		return failer(provider, OpDescribe, r.Key)(Misconfigured, err)
	}
	return nil
}

// Check is [WrapRequest.Check] for import parameters.
func (r ImportParametersRequest) Check(provider string) error {
	if err := checkKey(r.Key); err != nil {
		return failer(provider, OpImportParameters, r.Key)(Misconfigured, err)
	}
	return nil
}

// Check is [WrapRequest.Check] for importing. Wrapped bytes outside the limits
// are [Corrupt]: no mechanism made them.
func (r ImportMaterialRequest) Check(provider string) error {
	fail := failer(provider, OpImportMaterial, r.Key)
	if err := checkKey(r.Key); err != nil {
		return fail(Misconfigured, err)
	}
	if n := len(r.Token); n > MaxImportToken {
		return fail(Misconfigured, fmt.Errorf("import token of %d bytes, the limit is %d", n, MaxImportToken))
	}
	if n := len(r.Wrapped); n < 1 || n > MaxImportWrapped {
		return fail(Corrupt, fmt.Errorf("wrapped material of %d bytes, the limits are 1 and %d", n, MaxImportWrapped))
	}
	return nil
}

func checkKey(k KeyRef) error {
	if k == "" {
		return errors.New("no key named")
	}
	if len(k) > MaxKeyRef {
		return fmt.Errorf("key reference of %d bytes, the limit is %d", len(k), MaxKeyRef)
	}
	return nil
}

func checkKeyAndAAD(k KeyRef, aad []byte) error {
	if err := checkKey(k); err != nil {
		return err
	}
	// An empty AAD is refused: it would open in any context, and every caller
	// of this package has a context to bind.
	if len(aad) < 1 || len(aad) > MaxAAD {
		return fmt.Errorf("AAD of %d bytes, the limits are 1 and %d", len(aad), MaxAAD)
	}
	return nil
}

// failer keeps an over-long reference out of the error: it may go to a log.
func failer(provider string, op Op, key KeyRef) func(Class, error) error {
	if len(key) > MaxKeyRef {
		key = key[:64] + "..."
	}
	return func(c Class, cause error) error {
		return NewError(Error{Class: c, Provider: provider, Key: key, Op: op}, cause)
	}
}
