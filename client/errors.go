package client

import "github.com/openkcm/krypton-cluster/internal/errs"

// Error is what every call of this package fails with: a code of the table in
// docs/errors.md, a message, and a hint at what to do next. Find it with
// [errors.As], or take its code with [Code].
type Error = errs.Error

// Code returns the name of an error's code as docs/errors.md lists it, such as
// "INTEGRITY" or "SEALED"; "OK" for nil, and "INTERNAL" for an error that is not
// of this package.
func Code(err error) string { return errs.Of(err).String() }
