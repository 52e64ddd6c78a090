package memsec_test

import (
	"encoding/json"
	"io/fs"
	"testing"

	"github.com/c2sp/wycheproof"
)

// vectorFile holds the fields of Wycheproof's files that these tests read.
type vectorFile struct {
	NumberOfTests int
	TestGroups    []struct {
		KeySize, IvSize, TagSize int
		Tests                    []struct {
			TcID                       int
			Comment, Result            string
			IKM, Salt, Info, OKM       string
			Key, Msg, Tag, Iv, AAD, Ct string
			Size                       int
		}
	}
}

func vectors(tb testing.TB, name string) vectorFile {
	tb.Helper()
	raw, err := fs.ReadFile(wycheproof.TestVectors, name)
	if err != nil {
		tb.Fatal(err)
	}
	var f vectorFile
	if err := json.Unmarshal(raw, &f); err != nil {
		tb.Fatal(err)
	}
	n := 0
	for _, g := range f.TestGroups {
		n += len(g.Tests)
	}
	if n != f.NumberOfTests || n == 0 {
		tb.Fatalf("%s holds %d vectors and announces %d", name, n, f.NumberOfTests)
	}
	return f
}
