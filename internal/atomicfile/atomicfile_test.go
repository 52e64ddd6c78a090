package atomicfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/atomicfile"
)

const oldText, newText = "the old content, which is longer", "the new content"

func file(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := atomicfile.Write(path, []byte(oldText), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func holds(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("the file holds %q (%v), want %q", got, err, want)
	}
}

func names(t *testing.T, path string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestI1_ACrashAtAnyStepLeavesTheOldOrTheNewFile(t *testing.T) {
	t.Parallel()
	crashed := errors.New("crashed")
	for step, want := range map[atomicfile.Step]string{
		atomicfile.Created: oldText, atomicfile.Written: oldText, atomicfile.Synced: oldText, atomicfile.Renamed: newText,
	} {
		path := file(t)
		var order []atomicfile.Step
		err := atomicfile.WriteWith(path, []byte(newText), 0o600, func(s atomicfile.Step) error {
			order = append(order, s)
			if s == step {
				return crashed
			}
			return nil
		})
		if !errors.Is(err, crashed) || !slices.IsSorted(order) || len(order) != int(step) {
			t.Errorf("step %d: %v, steps %v", step, err, order)
		}
		holds(t, path, want)
		// What the crash left is in nobody's way.
		if err := atomicfile.Write(path, []byte("third"), 0o600); err != nil {
			t.Errorf("step %d: write again: %v", step, err)
		}
		holds(t, path, "third")
		if got := names(t, path); !slices.Equal(got, []string{"file"}) {
			t.Errorf("step %d: the directory holds %q", step, got)
		}
	}
}

func TestI1_TheContentIsWholeBeforeItHasTheName(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	if err := atomicfile.WriteWith(path, []byte(newText), 0o600, func(s atomicfile.Step) error {
		if _, err := os.Lstat(path); (err == nil) != (s == atomicfile.Renamed) {
			t.Errorf("step %d: the file is there: %v", s, err == nil)
		}
		if s == atomicfile.Written || s == atomicfile.Synced {
			holds(t, path+atomicfile.Suffix, newText)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	holds(t, path, newText)
}

// A rename that is refused is the failure that comes last of those that leave the
// old file: everything before it was done by then.
func TestI2_AFailureLeavesNoTemporaryFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte(newText), 0o600); err == nil {
		t.Fatal("a directory was replaced")
	}
	if got := names(t, path); !slices.Equal(got, []string{"file"}) {
		t.Errorf("the directory holds %q", got)
	}
	if err := atomicfile.Write(filepath.Join(path, "none", "file"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
}

func TestI3_ModeIsThatAskedForAndLinksAreNotFollowed(t *testing.T) {
	t.Parallel()
	path := file(t)
	victim := filepath.Join(filepath.Dir(path), "victim")
	if err := os.WriteFile(victim, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, path+atomicfile.Suffix); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte(newText), 0o600); err != nil {
		t.Fatal(err)
	}
	holds(t, victim, "mine")
	holds(t, path, newText)
	st, err := os.Lstat(path)
	if err != nil || st.Mode().Perm() != 0o600 || !st.Mode().IsRegular() {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}
