package keystoretest

import (
	"bytes"
	"cmp"
	"crypto/rand"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/byok"
)

// importer is the second side of the subject.
func (s *suite) importer() keystore.Importer {
	s.Helper()
	imp, ok := s.Provider.(keystore.Importer)
	if !ok {
		s.Fatalf("the fixture can make keys for an import and %T is no keystore.Importer", s.Provider)
	}
	return imp
}

func (s *suite) parameters(imp keystore.Importer, key keystore.KeyRef) keystore.ImportParameters {
	s.Helper()
	p, err := imp.ImportParameters(s.ctx, keystore.ImportParametersRequest{Key: key, Correlation: s.correlation()})
	if err != nil {
		s.Fatalf("import parameters: %v", err)
	}
	if n := len(p.PublicKey); n < 1 || n > keystore.MaxImportPublicKey || len(p.Token) > keystore.MaxImportToken {
		s.Errorf("a public key of %d and a token of %d bytes", n, len(p.Token))
	}
	if !p.Expires.IsZero() && !p.Expires.After(s.env.Clock.Now()) {
		s.Errorf("the parameters expired at %s", p.Expires)
	}
	return p
}

func (s *suite) imports() {
	imp := s.importer()
	key := s.NewImportKey(s.T)
	material := s.secret(cmp.Or(s.ImportSize, 32))
	clearText := bytes.Clone(s.seen[len(s.seen)-1])
	p := s.parameters(imp, key)
	wrapped, err := byok.Wrap(rand.Reader, p, material)
	if err != nil {
		s.Fatalf("wrap for the import: %v", err)
	}
	if _, found := finds(wrapped, clearText); found {
		s.Error("the material stands in what was wrapped")
	}
	if _, err := imp.ImportMaterial(s.ctx, keystore.ImportMaterialRequest{Key: key, Wrapped: wrapped, Token: p.Token, Correlation: s.correlation()}); err != nil {
		s.Fatalf("import: %v", err)
	}
	if s.Imported != nil {
		if got := s.Imported(s.T, key); !bytes.Equal(got, clearText) {
			s.Errorf("the key has %d bytes that are not what was imported", len(got))
		}
	}
	sec := s.secret(32)
	s.opens(s.Provider, key, s.wrap(key, sec).Blob, sec)
}

func (s *suite) badImports() {
	imp := s.importer()
	key := s.NewImportKey(s.T)
	material := s.secret(cmp.Or(s.ImportSize, 32))
	p := s.parameters(imp, key)
	wrapped, err := byok.Wrap(rand.Reader, p, material)
	if err != nil {
		s.Fatalf("wrap for the import: %v", err)
	}
	bad := bytes.Clone(wrapped)
	bad[len(bad)/2] ^= 1
	refuse := func(what string, req keystore.ImportMaterialRequest, classes ...keystore.Class) {
		s.Helper()
		req.Correlation = s.correlation()
		_, err := imp.ImportMaterial(s.ctx, req)
		e := s.fails("import "+what, err, classes...)
		if e.Provider != s.cfg.Name || e.Op != keystore.OpImportMaterial || e.Key != req.Key {
			s.Errorf("import %s: error names %q %s %q", what, e.Provider, e.Op, e.Key)
		}
	}
	refuse("of nothing", keystore.ImportMaterialRequest{Key: key, Token: p.Token}, keystore.Corrupt)
	refuse("of too much", keystore.ImportMaterialRequest{Key: key, Token: p.Token, Wrapped: make([]byte, keystore.MaxImportWrapped+1)}, keystore.Corrupt)
	refuse("of changed bytes", keystore.ImportMaterialRequest{Key: key, Token: p.Token, Wrapped: bad}, keystore.Corrupt, keystore.Misconfigured)
	if len(p.Token) > 0 {
		refuse("with no token", keystore.ImportMaterialRequest{Key: key, Wrapped: wrapped}, keystore.Misconfigured)
		token := bytes.Clone(p.Token)
		token[len(token)/2] ^= 1
		refuse("with a changed token", keystore.ImportMaterialRequest{Key: key, Wrapped: wrapped, Token: token}, keystore.Misconfigured, keystore.Corrupt)
	}
	refuse("into a key that never was", keystore.ImportMaterialRequest{Key: s.UnknownKey, Wrapped: wrapped, Token: p.Token}, keystore.Denied, keystore.Misconfigured)
	_, err = imp.ImportParameters(s.ctx, keystore.ImportParametersRequest{Key: s.UnknownKey, Correlation: s.correlation()})
	if e := s.fails("import parameters of a key that never was", err, keystore.Denied, keystore.Misconfigured); e.Op != keystore.OpImportParameters {
		s.Errorf("error names operation %s", e.Op)
	}
	// What was refused left nothing behind: the good material still goes in.
	p = s.parameters(imp, key)
	if wrapped, err = byok.Wrap(rand.Reader, p, material); err != nil {
		s.Fatal(err)
	}
	if _, err := imp.ImportMaterial(s.ctx, keystore.ImportMaterialRequest{Key: key, Wrapped: wrapped, Token: p.Token, Correlation: s.correlation()}); err != nil {
		s.Fatalf("import after refused ones: %v", err)
	}
	sec := s.secret(32)
	s.opens(s.Provider, key, s.wrap(key, sec).Blob, sec)
}
