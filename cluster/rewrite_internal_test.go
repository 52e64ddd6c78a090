package cluster

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// onDisk is a store with entries 1 to n on a real disk.
func onDisk(t *testing.T, n uint64) *store {
	t.Helper()
	s, err := openStore(filepath.Join(t.TempDir(), "raft.db"), clock.System{}, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for i := uint64(1); i <= n; i++ {
		if err := s.StoreLog(entry(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.SetUint64(keyCurrentTerm, 7), s.Set([]byte("another key"), []byte("value"))); err != nil {
		t.Fatal(err)
	}
	return s
}

func has(t *testing.T, s *store, first, last uint64) {
	t.Helper()
	f, errFirst := s.FirstIndex()
	l, errLast := s.LastIndex()
	if f != first || l != last || errFirst != nil || errLast != nil {
		t.Fatalf("entries %d to %d: %v", f, l, errors.Join(errFirst, errLast))
	}
	for i := first; i <= last; i++ {
		var got raft.Log
		if err := s.GetLog(i, &got); err != nil || !bytes.Equal(got.Data, entry(i).Data) {
			t.Fatalf("entry %d is %q: %v", i, got.Data, err)
		}
	}
	term, err := s.GetUint64(keyCurrentTerm)
	v, errKey := s.Get([]byte("another key"))
	if term != 7 || string(v) != "value" || err != nil || errKey != nil {
		t.Fatalf("term %d, key %q: %v", term, v, errors.Join(err, errKey))
	}
}

func TestI24_ARewrittenLogHasWhatItHadAndNothingThatWasRemoved(t *testing.T) {
	s := onDisk(t, 500)
	if err := s.DeleteRange(1, 400); err != nil {
		t.Fatal(err)
	}
	removed := entry(321).Data
	if b, err := os.ReadFile(s.path); err != nil || !bytes.Contains(b, removed) {
		t.Fatalf("the database wipes what it deletes, so there is nothing to test: %v", err)
	}
	old, err := os.Open(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Close() }()
	if err := s.rewrite(); err != nil {
		t.Fatal(err)
	}
	has(t, s, 401, 500)
	b, err := os.ReadFile(s.path)
	if err != nil || bytes.Contains(b, removed) {
		t.Errorf("what was removed is in the file: %v", err)
	}
	if b, err = io.ReadAll(old); err != nil || len(b) == 0 || len(bytes.Trim(b, "\x00")) > 0 {
		t.Errorf("the old file has %d bytes, and not only zeros: %v", len(b), err)
	}
	if st, err := os.Stat(s.path); err != nil || st.Mode().Perm() != fileMode {
		t.Errorf("mode %v: %v", st.Mode(), err)
	}
	if err := s.StoreLog(entry(501)); err != nil {
		t.Fatal(err)
	}
	again := reopened(t, s)
	has(t, again, 401, 501)
}

func reopened(t *testing.T, s *store) *store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := openStore(s.path, clock.System{}, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	return again
}

func TestALogThatCannotBeCopiedStaysAsItIs(t *testing.T) {
	s := onDisk(t, 20)
	// A directory stands where the copy is to be written: as little can be as on a full disk.
	if err := os.MkdirAll(filepath.Join(s.path+".tmp", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := s.rewrite()
	if !errs.Is(err, errs.Unavailable) {
		t.Errorf("%v", err)
	}
	has(t, s, 1, 20)
	if err := s.StoreLog(entry(21)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.path + ".tmp"); err != nil {
		t.Fatal(err)
	}
	if err := s.rewrite(); err != nil {
		t.Fatal(err)
	}
	has(t, s, 1, 21)
}

func TestCallsOfTheStoreAndARewriteGoTogether(t *testing.T) {
	s := onDisk(t, 10)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	last := uint64(10)
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				last++
				if err := s.StoreLog(entry(last)); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := s.LastIndex(); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 10 {
		if err := s.rewrite(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	has(t, s, 1, last)
}

func TestACopyThatDiffersIsNotTaken(t *testing.T) {
	dir := t.TempDir()
	make2 := func(name, value string) string {
		s := filepath.Join(dir, name)
		st, err := openStore(s, clock.System{}, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(st.StoreLog(entry(1)), st.Set([]byte("k"), []byte(value)), st.Close()); err != nil {
			t.Fatal(err)
		}
		return s
	}
	a := make2("a", "x")
	for name, other := range map[string]struct {
		path string
		same bool
	}{
		"the same":      {make2("b", "x"), true},
		"another value": {make2("c", "y"), false},
	} {
		if err := compareFiles(a, other.path); (err == nil) != other.same {
			t.Errorf("%s: %v", name, err)
		}
	}
	more := make2("d", "x")
	st, err := openStore(more, clock.System{}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(st.StoreLog(entry(2)), st.Close()); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{a, more}, {more, a}} {
		if err := compareFiles(pair[0], pair[1]); !errors.Is(err, errCopy) {
			t.Errorf("one entry more: %v", err)
		}
	}
}

func TestASnapshotThatIsReadIsKnownAsSuch(t *testing.T) {
	files := snapshots{raft.NewInmemSnapshotStore(), nil, nil, &readers{}}
	if _, _, err := files.Open("none"); err == nil {
		t.Fatal("there is none")
	}
	isRead := func(id string) bool {
		read, err := files.readers.unlessRead(id, func() error { return io.EOF })
		if read == errors.Is(err, io.EOF) {
			t.Errorf("read: %t, and yet %v", read, err)
		}
		return read
	}
	if isRead("none") {
		t.Error("one that cannot be opened is not read")
	}
	files.readers.add("a", 2)
	one, other := files.counted("a", io.NopCloser(strings.NewReader(""))), files.counted("a", io.NopCloser(strings.NewReader("")))
	for i, r := range []io.Closer{one, one, other} {
		if !isRead("a") {
			t.Errorf("before close %d it is read still", i)
		}
		_ = r.Close()
	}
	if isRead("a") {
		t.Error("all have closed it")
	}
}

func compareFiles(a, b string) error {
	x, err := bbolt.Open(a, fileMode, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { _ = x.Close() }()
	y, err := bbolt.Open(b, fileMode, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { _ = y.Close() }()
	return sameDatabase(x, y)
}
