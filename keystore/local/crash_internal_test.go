//go:build unix

package local

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

func internalEnv() keystore.Env {
	return keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
}

// At each point of a change a crash leaves the old or the new file, the
// keystore opens, and the next change goes through and leaves no old bytes.
func TestI2_ACrashLeavesTheOldOrTheNewFile(t *testing.T) {
	crashed := errors.New("crashed")
	for _, c := range []struct {
		name string
		at   atomicfile.Step
		want keystore.KeyVersion
	}{
		{"temporary file created", atomicfile.Created, "1"},
		{"temporary file written", atomicfile.Written, "1"},
		{"temporary file synced", atomicfile.Synced, "1"},
		{"renamed", atomicfile.Renamed, "2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, dir := context.Background(), filepath.Join(t.TempDir(), "ks")
			ks, err := Create(ctx, internalEnv(), "dev", dir)
			if err != nil {
				t.Fatal(err)
			}
			defer ks.Close()
			if err := ks.CreateKey(ctx, "demo"); err != nil {
				t.Fatal(err)
			}
			ks.crash = func(st atomicfile.Step) error {
				if st == c.at {
					return crashed
				}
				return nil
			}
			if err := ks.Rotate(ctx, "demo"); !errors.Is(err, crashed) {
				t.Fatalf("rotate: %v", err)
			}
			again, err := Open(ctx, internalEnv(), "dev", dir)
			if err != nil {
				t.Fatalf("open after the crash: %v", err)
			}
			defer again.Close()
			d, err := again.Describe(ctx, keystore.DescribeRequest{Key: "demo"})
			if err != nil || d.KeyVersion != c.want {
				t.Fatalf("version %q after the crash, want %q (%v)", d.KeyVersion, c.want, err)
			}
			if err := again.Rotate(ctx, "demo"); err != nil {
				t.Fatalf("change after the crash: %v", err)
			}
			if _, err := os.Lstat(filepath.Join(dir, keysName+atomicfile.Suffix)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the temporary file is still there: %v", err)
			}
		})
	}
}

func TestI1_OwnersAndModes(t *testing.T) {
	for name, c := range map[string]struct {
		mode, want  fs.FileMode
		owner, user int
		text        string
	}{
		"own file":             {0o600, fileMode, 7, 7, ""},
		"own directory":        {fs.ModeDir | 0o700, dirMode, 7, 7, ""},
		"root's file":          {0o600, fileMode, 0, 7, "belongs to user 0, and this process runs as user 7"},
		"another's, for root":  {0o600, fileMode, 7, 0, "belongs to user 7"},
		"group may read":       {0o640, fileMode, 7, 7, "has mode 0640, which is not 0600"},
		"others may write":     {0o602, fileMode, 7, 7, "chmod 0600"},
		"executable":           {0o700, fileMode, 7, 7, "has mode 0700"},
		"read-only":            {0o400, fileMode, 7, 7, "has mode 0400"},
		"setuid":               {fs.ModeSetuid | 0o600, fileMode, 7, 7, "has mode"},
		"sticky directory":     {fs.ModeDir | fs.ModeSticky | 0o700, dirMode, 7, 7, "has mode"},
		"directory for a file": {fs.ModeDir | 0o600, fileMode, 7, 7, "not a regular file"},
		"pipe":                 {fs.ModeNamedPipe | 0o600, fileMode, 7, 7, "not a regular file"},
		"file for a directory": {0o700, dirMode, 7, 7, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkOwnerAndMode("/d/f", c.mode, c.want, c.owner, c.user)
			if (err == nil) != (c.text == "") || (err != nil && !strings.Contains(err.Error(), c.text)) {
				t.Errorf("got %v, want %q", err, c.text)
			}
		})
	}
}

// drawContents makes valid contents and the buffer that its versions' keys are in.
func drawContents(t *rapid.T) (*contents, []byte) {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[!-~]{1,12}`), 0, 5, rapid.ID).Draw(t, "names")
	c := &contents{revision: rapid.Uint64().Draw(t, "revision")}
	var src []byte
	for _, n := range names {
		k := key{name: n, state: keystore.KeyState(rapid.IntRange(1, 4).Draw(t, "state"))}
		if k.state == keystore.StatePendingDeletion {
			k.deleteAt = rapid.Int64Range(1, 1<<40).Draw(t, "at")
		}
		if k.state != keystore.StateDeleted {
			for i := range rapid.IntRange(1, 3).Draw(t, "versions") {
				k.versions = append(k.versions, version{number: uint32(i + 1), created: rapid.Int64().Draw(t, "created"), at: len(src)})
				src = append(src, rapid.SliceOfN(rapid.Byte(), memsec.KeySize, memsec.KeySize).Draw(t, "key")...)
			}
		}
		i, _ := c.find(n)
		c.keys = append(c.keys[:i:i], append([]key{k}, c.keys[i:]...)...)
	}
	return c, src
}

func TestWhatIsEncodedParsesToTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, src := drawContents(t)
		b := c.encode(src, nil)
		if len(b) != cap(b) {
			t.Fatalf("the buffer grew: %d of %d bytes", len(b), cap(b))
		}
		got, err := parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if again := got.encode(b, nil); !bytes.Equal(b, again) {
			t.Fatal("encoding the parsed contents gives other bytes")
		}
		if got.revision != c.revision || len(got.keys) != len(c.keys) {
			t.Fatalf("got %+v, want %+v", got, c)
		}
		for i, k := range c.keys {
			for j, v := range k.versions {
				w := got.keys[i].versions[j]
				if w.number != v.number || w.created != v.created || !bytes.Equal(b[w.at:w.at+memsec.KeySize], src[v.at:v.at+memsec.KeySize]) {
					t.Fatalf("key %d version %d differs", i, j)
				}
			}
		}
	})
}

func TestContentsThatNoChangeMakesAreRefused(t *testing.T) {
	ok := func() *contents {
		return &contents{keys: []key{
			{name: "a", state: keystore.StateEnabled, versions: []version{{number: 1}, {number: 2}}},
			{name: "b", state: keystore.StateDeleted},
		}}
	}
	src := make([]byte, memsec.KeySize)
	if _, err := parse(ok().encode(src, nil)); err != nil {
		t.Fatalf("sound contents: %v", err)
	}
	for name, change := range map[string]func(*contents){
		"state 0":             func(c *contents) { c.keys[0].state = 0 },
		"state 9":             func(c *contents) { c.keys[0].state = 9 },
		"no version":          func(c *contents) { c.keys[0].versions = nil },
		"deleted, with key":   func(c *contents) { c.keys[1].versions = []version{{number: 1}} },
		"names out of order":  func(c *contents) { c.keys[1].name = "A" },
		"name twice":          func(c *contents) { c.keys[1].name = "a" },
		"empty name":          func(c *contents) { c.keys[0].name = "" },
		"name with a newline": func(c *contents) { c.keys[0].name = "a\nb" },
		"number twice":        func(c *contents) { c.keys[0].versions[1].number = 1 },
		"time without reason": func(c *contents) { c.keys[0].deleteAt = 5 },
		"pending, no time":    func(c *contents) { c.keys[0].state = keystore.StatePendingDeletion },
	} {
		t.Run(name, func(t *testing.T) {
			c := ok()
			change(c)
			if _, err := parse(c.encode(src, nil)); !errors.Is(err, errDamaged) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The golden file was written once for format 1 and is never made again.
func TestGoldenKeyFileOfFormat1(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "keys-v1.hex"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	c, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		Name     string
		State    keystore.KeyState
		DeleteAt int64
		Versions []uint32
	}
	var got []row
	for _, k := range c.keys {
		r := row{Name: k.name, State: k.state, DeleteAt: k.deleteAt}
		for _, v := range k.versions {
			r.Versions = append(r.Versions, v.number)
		}
		got = append(got, r)
	}
	want := []row{
		{"demo", keystore.StateEnabled, 0, []uint32{1, 2}},
		{"going", keystore.StatePendingDeletion, 1770000000, []uint32{1}},
		{"gone", keystore.StateDeleted, 0, nil},
		{"off", keystore.StateDisabled, 0, []uint32{1}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if c.revision != 9 {
		t.Errorf("revision %d", c.revision)
	}

	// And a blob made under version 1 of demo opens.
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, dirMode), os.WriteFile(filepath.Join(dir, keysName), b, fileMode), os.WriteFile(filepath.Join(dir, lockName), nil, fileMode)); err != nil {
		t.Fatal(err)
	}
	env := internalEnv()
	env.Clock = clock.NewFake(time.Unix(1760000000, 0))
	ks, err := Open(t.Context(), env, "dev", dir)
	if err != nil {
		t.Fatal(err)
	}
	defer ks.Close()
	blobText, err := os.ReadFile(filepath.Join("testdata", "blob-v1.hex"))
	if err != nil {
		t.Fatal(err)
	}
	blob, err := hex.DecodeString(strings.TrimSpace(string(blobText)))
	if err != nil {
		t.Fatal(err)
	}
	res, err := ks.Unwrap(t.Context(), keystore.UnwrapRequest{Key: "demo", Blob: blob, AAD: []byte("golden"), Class: memsec.Hot})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Secret.Destroy()
	wantSecret, err := memsec.Take([]byte("golden secret of 32 bytes, yes!!"), memsec.Hot)
	if err != nil {
		t.Fatal(err)
	}
	defer wantSecret.Destroy()
	if same, err := memsec.Equal(res.Secret, wantSecret); err != nil || !same || res.KeyVersion != "1" {
		t.Errorf("golden blob: same %v, version %q, %v", same, res.KeyVersion, err)
	}
}

func FuzzParseKeyFile(f *testing.F) {
	c := &contents{keys: []key{{name: "a", state: keystore.StateEnabled, versions: []version{{number: 1}}}}}
	f.Add(c.encode(make([]byte, memsec.KeySize), nil))
	f.Add((&contents{}).encode(nil, nil))
	f.Add([]byte(header))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parse(b)
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Errorf("not marked as damage: %v", err)
			}
			return
		}
		if again := c.encode(b, nil); !bytes.Equal(again, b) {
			t.Error("two files have one content")
		}
	})
}

// The checksum keeps a fuzzer out; this one puts a right one under its bytes.
func FuzzParseKeyFileBody(f *testing.F) {
	sound := (&contents{keys: []key{{name: "a", state: keystore.StateEnabled, versions: []version{{number: 1}}}}}).encode(make([]byte, memsec.KeySize), nil)
	f.Add(sound[len(header) : len(sound)-32])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		b := withSum(append([]byte(header), body...))
		c, err := parse(b)
		if err != nil {
			return
		}
		if again := c.encode(b, nil); !bytes.Equal(again, b) {
			t.Error("two files have one content")
		}
	})
}

func withSum(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}
