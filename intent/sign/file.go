package sign

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// FileVersion is the version of the file that this package writes and reads.
const FileVersion = 1

// MaxFile is the length in bytes of the longest file that is read: the longest
// request, intent and list of signatures in base64, and room for white space.
const MaxFile = 512 << 10

// File is an intent with the request that it is over and the signatures that
// people have given so far, none at first. In a file it is carried between people
// and to machines without a network; docs/formats.md has its form. It is public:
// there is no secret in it, and nobody can change it without a trace but by taking
// signatures away.
type File struct {
	Request    *intent.Request
	Intent     intent.Intent
	Signatures []FileSignature // in ascending order of the key ids, none twice
}

// FileSignature is a signature with the key under which it verifies. Whose key it
// is, and whether the signature counts, only the cluster knows.
type FileSignature struct {
	Key intent.PublicKey
	Sig []byte
}

// The form of the file. Changing it breaks files that are on their way.
type (
	jsonFile struct {
		Version    int             `json:"version"`
		Request    []byte          `json:"request"`
		Intent     []byte          `json:"intent"`
		Signatures []jsonSignature `json:"signatures"`
	}
	jsonSignature struct {
		Algorithm string `json:"algorithm"`
		PublicKey []byte `json:"public_key"`
		Signature []byte `json:"signature"`
	}
)

// Encode returns the file's form, or why f has none.
func (f File) Encode() ([]byte, error) {
	encoded, err := f.check()
	if err != nil {
		return nil, err
	}
	j := jsonFile{Version: FileVersion, Request: f.Request.Canonical(), Intent: encoded, Signatures: []jsonSignature{}}
	for _, s := range f.Signatures {
		j.Signatures = append(j.Signatures, jsonSignature{Algorithm: s.Key.Alg().String(), PublicKey: s.Key.Raw(), Signature: s.Sig})
	}
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode signed intent: %w", err)
	}
	return append(b, '\n'), nil
}

// DecodeFile reads what [File.Encode] wrote (I4). It keeps no reference to b.
// Errors have the code INVALID_ARGUMENT or TOO_LARGE.
func DecodeFile(b []byte) (File, error) {
	if len(b) > MaxFile {
		return File{}, errs.New(errs.TooLarge, fmt.Sprintf("the signed intent has more than %d bytes", MaxFile))
	}
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return File{}, badFile("is not the JSON that it should be", err)
	}
	if v.Version != FileVersion {
		return File{}, errs.New(errs.InvalidArgument, fmt.Sprintf("the signed intent has version %d, and this release reads %d", v.Version, FileVersion),
			errs.Hint("use the release that wrote it"))
	}
	var j jsonFile
	if err := json.Unmarshal(b, &j); err != nil {
		return File{}, badFile("is not the JSON that it should be", err)
	}
	f, err := j.file()
	if err != nil {
		return File{}, err
	}
	again, err := f.Encode()
	if err != nil {
		return File{}, err
	}
	// What encoding/json forgives, among it unknown fields, two of one name, names
	// in another case, and spellings of base64, would let two readers see two files.
	var want, got bytes.Buffer
	if err := json.Compact(&want, again); err != nil {
		return File{}, badFile("is not the JSON that it should be", err)
	}
	if err := json.Compact(&got, b); err != nil || !bytes.Equal(want.Bytes(), got.Bytes()) {
		return File{}, badFile("is written in another way than its format says", err)
	}
	return f, nil
}

func badFile(why string, cause error) error {
	return errs.New(errs.InvalidArgument, "the signed intent "+why, errs.Hint("give the file as it was written, whole"), errs.Cause(cause))
}

func (j jsonFile) file() (File, error) {
	var f File
	var err error
	if f.Request, err = intent.ParseRequest(j.Request); err != nil {
		return File{}, badFile("has a request that cannot be read: "+err.Error(), err)
	}
	if f.Intent, err = intent.Decode(j.Intent); err != nil {
		return File{}, badFile("has an intent that cannot be read: "+err.Error(), err)
	}
	if len(j.Signatures) > intent.MaxSignatures {
		return File{}, badFile("has too many signatures", nil)
	}
	for _, s := range j.Signatures {
		alg := intent.AlgUnspecified
		for _, a := range []intent.Alg{intent.AlgEd25519, intent.AlgECDSAP256SHA256} {
			if s.Algorithm == a.String() {
				alg = a
			}
		}
		key, err := intent.NewPublicKey(alg, s.PublicKey)
		if err != nil {
			return File{}, badFile("has a public key that cannot be used: "+err.Error(), err)
		}
		f.Signatures = append(f.Signatures, FileSignature{Key: key, Sig: s.Signature})
	}
	return f, nil
}

// check reports why f is not whole (I4), and returns the encoding of the intent.
func (f File) check() ([]byte, error) {
	if f.Request == nil {
		return nil, badFile("has no request", nil)
	}
	if _, err := intent.ParseRequest(f.Request.Canonical()); err != nil {
		return nil, badFile("has a request that cannot be read: "+err.Error(), err)
	}
	encoded, err := f.Intent.Encode()
	if err != nil {
		return nil, badFile("has an intent that cannot be read: "+err.Error(), err)
	}
	if f.Intent.Act != f.Request.Act() || f.Intent.Request != f.Request.Digest() {
		return nil, badFile("has an intent that is over another request than the one in the file", nil)
	}
	message, err := f.Intent.Message()
	if err != nil {
		return nil, badFile("has an intent that cannot be read: "+err.Error(), err)
	}
	if len(f.Signatures) > intent.MaxSignatures {
		return nil, badFile("has too many signatures", nil)
	}
	for i, s := range f.Signatures {
		if i > 0 && byKeyID(f.Signatures[i-1], s) >= 0 {
			return nil, badFile("has signatures that are not in ascending order of the key ids, or two of one key", nil)
		}
		if !s.Key.Verify(message, s.Sig) {
			return nil, badFile("has a signature that does not verify", nil)
		}
	}
	return encoded, nil
}

func byKeyID(a, b FileSignature) int {
	x, y := a.Key.ID(), b.Key.ID()
	return bytes.Compare(x[:], y[:])
}

// Signed returns the intent with its signatures, as commands carry it.
func (f File) Signed() intent.Signed {
	s := intent.Signed{Intent: f.Intent}
	for _, by := range f.Signatures {
		s.Signatures = append(s.Signatures, intent.Signature{Key: by.Key.ID(), Sig: bytes.Clone(by.Sig)})
	}
	return s
}

// Countersign returns f with the signature of s, if f orders just what e expects;
// see the function [Countersign]. It does not change f.
func (f File) Countersign(ctx context.Context, s Signer, e Expected) (File, error) {
	encoded, err := f.check()
	if err != nil {
		return File{}, err
	}
	pub := s.PublicKey()
	if slices.ContainsFunc(f.Signatures, func(by FileSignature) bool { return by.Key == pub }) {
		return File{}, errs.New(errs.AlreadyExists, "this key has signed the intent already", errs.Hint("the signature of another person is needed"))
	}
	sig, err := Countersign(ctx, s, encoded, e)
	if err != nil {
		return File{}, err
	}
	return f.with(FileSignature{Key: pub, Sig: sig.Sig})
}

// with returns f with one more signature. The same one again changes nothing.
func (f File) with(s FileSignature) (File, error) {
	i, found := slices.BinarySearchFunc(f.Signatures, s, byKeyID)
	switch {
	case found && bytes.Equal(f.Signatures[i].Sig, s.Sig):
		return f, nil
	case found:
		return File{}, errs.New(errs.InvalidArgument, "there are two different signatures of one key over the intent",
			errs.Hint("leave one of the files out; a key counts once"))
	case len(f.Signatures) == intent.MaxSignatures:
		return File{}, errs.New(errs.LimitReached, fmt.Sprintf("an intent has at most %d signatures", intent.MaxSignatures))
	}
	f.Signatures = slices.Insert(slices.Clone(f.Signatures), i, s)
	return f, nil
}

// Merge returns one file with all signatures of files, which are over the same
// intent, to the byte. A signature that stands in several of them, because they
// come from one file, counts once; two different ones of one key are refused.
func Merge(files ...File) (File, error) {
	if len(files) == 0 {
		return File{}, errs.New(errs.InvalidArgument, "there is no signed intent")
	}
	first, err := files[0].check()
	if err != nil {
		return File{}, err
	}
	all := files[0]
	for _, f := range files[1:] {
		encoded, err := f.check()
		if err != nil {
			return File{}, err
		}
		if !bytes.Equal(encoded, first) {
			return File{}, errs.New(errs.InvalidArgument, "the files hold different intents, also if they order the same",
				errs.Hint("all must sign copies of one file"))
		}
		for _, s := range f.Signatures {
			if all, err = all.with(s); err != nil {
				return File{}, err
			}
		}
	}
	return all, nil
}

// Describe returns all that is in f, for a person: the request, the intent and the
// keys that have signed, with the care of [intent.Request.Describe].
func (f File) Describe() string {
	var b strings.Builder
	b.WriteString(f.Request.Describe())
	b.WriteString(f.Intent.Describe())
	if len(f.Signatures) == 0 {
		b.WriteString("signed by nobody\n")
	}
	for _, s := range f.Signatures {
		fmt.Fprintf(&b, "signed with key %s\n", s.Key.ID())
	}
	return b.String()
}

// OpenFile reads the file at path.
func OpenFile(path string) (File, error) {
	r, err := os.Open(path)
	if err != nil {
		return File{}, errs.New(errs.InvalidArgument, "the signed intent cannot be read: "+err.Error(), errs.Cause(err))
	}
	defer r.Close() //nolint:errcheck // Only read from.
	b, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	if err != nil {
		return File{}, errs.New(errs.InvalidArgument, "the signed intent cannot be read: "+err.Error(), errs.Cause(err))
	}
	return DecodeFile(b)
}

// Save writes the file to path, whole or not at all.
func (f File) Save(path string) error {
	b, err := f.Encode()
	if err != nil {
		return err
	}
	if err := atomicfile.Write(path, b, 0o600); err != nil {
		return errs.New(errs.InvalidArgument, "the signed intent cannot be written: "+err.Error(), errs.Cause(err))
	}
	return nil
}
