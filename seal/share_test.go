package seal_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
)

const letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"

func TestShareTextLooksAsDocumented(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	b := string(text(t, k.shares[0]))
	groups := strings.Split(strings.TrimSuffix(b, "\n"), "-")
	if groups[0] != "kshare1" || len(groups) != 1+25 || strings.Count(b, "\n") != 1 {
		t.Fatalf("%d groups, starts with %q", len(groups), groups[0])
	}
	for i, g := range groups[1:] {
		if len(g) != 6 && i != len(groups)-2 {
			t.Errorf("group %d has %d characters", i+1, len(g))
		}
		for _, c := range g {
			if !strings.ContainsRune(letters, c) {
				t.Errorf("group %d has a character that is not in the alphabet", i+1)
			}
		}
	}
}

func TestShareTextIsReadAsPeopleWriteIt(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	b := text(t, k.shares[0])
	for name, c := range map[string][]byte{
		"as printed":     b,
		"upper case":     bytes.ToUpper(b),
		"mixed case":     append(bytes.ToUpper(b[:40]), b[40:]...),
		"without dashes": bytes.ReplaceAll(b, []byte("-"), nil),
		"with blanks":    bytes.ReplaceAll(b, []byte("-"), []byte(" ")),
		"on many lines":  bytes.ReplaceAll(b, []byte("-"), []byte("\r\n")),
		"indented":       append([]byte("  \t"), b...),
		"letter spaced":  bytes.Join(bytes.Split(bytes.ReplaceAll(bytes.TrimSpace(b), []byte("-"), nil), nil), []byte(" ")),
	} {
		t.Run(name, func(t *testing.T) {
			s, err := seal.ParseShare(c)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Destroy()
			if !bytes.Equal(text(t, s), b) {
				t.Error("another share was read")
			}
		})
	}
}

// Every way to get one character wrong, at every place: substituted by any
// other character, left out, doubled, or changed places with its neighbour.
func TestEveryMistypedCharacterIsFound(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	b := bytes.TrimSpace(text(t, k.shares[0]))
	head := len("kshare1-")
	refused := func(what string, i int, typed []byte) {
		t.Helper()
		s, err := seal.ParseShare(typed)
		if err == nil {
			s.Destroy()
			t.Errorf("%s at %d was not noticed", what, i)
		} else if !errs.Is(err, errs.ShareRefused) {
			t.Errorf("%s at %d: %v", what, i, err)
		}
	}
	for i := range b {
		if b[i] == '-' {
			continue
		}
		for c := range byte(128) {
			if i < head && (c|0x20) == b[i] {
				continue
			}
			if c == b[i] || (c|0x20) == b[i] && c >= 'A' || c == '-' || c == ' ' || c == '\t' || c == '\r' || c == '\n' {
				continue // the same character, or one that is left out, which comes below
			}
			typed := bytes.Clone(b)
			typed[i] = c
			refused("substitution", i, typed)
		}
		refused("omission", i, append(bytes.Clone(b[:i]), b[i+1:]...))
		refused("doubling", i, append(bytes.Clone(b[:i+1]), b[i:]...))
		if j := i + 1; j < len(b) && b[j] != '-' && b[j] != b[i] {
			typed := bytes.Clone(b)
			typed[i], typed[j] = typed[j], typed[i]
			refused("swap", i, typed)
		}
	}
}

func TestUpToThreeMistypedCharactersAreFound(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	b := bytes.ReplaceAll(bytes.TrimSpace(text(t, k.shares[1])), []byte("-"), nil)
	rapid.Check(t, func(t *rapid.T) {
		typed := bytes.Clone(b)
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(len("kshare1"), len(b)-1), 1, 3, rapid.ID).Draw(t, "places") {
			old := strings.IndexByte(letters, b[i])
			typed[i] = letters[(old+rapid.IntRange(1, 31).Draw(t, "shift"))%32]
		}
		s, err := seal.ParseShare(typed)
		if !errors.Is(err, seal.ErrShareMistyped) {
			s.Destroy()
			t.Errorf("got %v", err)
		}
	})
}

func TestTextsThatAreNoSharesAreNamed(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	b := bytes.TrimSpace(text(t, k.shares[0]))
	for name, c := range map[string]struct {
		text []byte
		want error
		says string
	}{
		"empty":        {nil, seal.ErrShareText, "does not start"},
		"blank":        {[]byte(" \n"), seal.ErrShareText, "does not start"},
		"half a head":  {[]byte("kshar"), seal.ErrShareText, "does not start"},
		"an age key":   {[]byte("AGE-SECRET-KEY-1QQQ"), seal.ErrShareText, "does not start"},
		"version 2":    {bytes.Replace(b, []byte("kshare1"), []byte("kshare2"), 1), seal.ErrShareText, "does not start"},
		"only a head":  {[]byte("kshare1-"), seal.ErrShareText, "0 characters"},
		"half":         {b[:90], seal.ErrShareText, "characters after its start, want 146"},
		"two of them":  {append(append(bytes.Clone(b), '\n'), b...), seal.ErrShareMistyped, "character"},
		"a book":       {bytes.Repeat([]byte("q"), seal.MaxShareText+1), seal.ErrShareText, "at most"},
		"letter o":     {bytes.Replace(b, b[20:21], []byte("o"), 1), seal.ErrShareMistyped, "shares do not have"},
		"byte 0xff":    {append(bytes.Clone(b[:30]), append([]byte{0xff}, b[31:]...)...), seal.ErrShareMistyped, "character 31"},
		"wrong ending": {append(bytes.Clone(b[:len(b)-1]), other(b[len(b)-1])), seal.ErrShareMistyped, "checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := seal.ParseShare(c.text)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) || !errs.Is(err, errs.ShareRefused) {
				t.Errorf("got %v, want %q", err, c.says)
			}
			for group := range bytes.SplitSeq(b[8:], []byte("-")) {
				// The last group has two letters, as many words have.
				if len(group) > 4 && bytes.Contains([]byte(err.Error()), group) {
					t.Errorf("the error shows a part of the share: %v", err)
				}
			}
		})
	}
}

func other(c byte) byte { return letters[(strings.IndexByte(letters, c)+1)%32] }

func TestI7_AShareWithoutClusterIsNotPrinted(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	var b bytes.Buffer
	if err := k.shares[0].ForCluster(seal.Fingerprint{}).Print(&b); err == nil || b.Len() != 0 {
		t.Errorf("%v, %d bytes", err, b.Len())
	}
}

func TestPrintReportsAFailingWriter(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	full := errors.New("disk full")
	if err := k.shares[0].Print(failingWriter{full}); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	dead := shamirOf(t, ceremony(t), 2, 2)
	dead.done()
	if err := dead.shares[0].Print(&bytes.Buffer{}); err == nil {
		t.Error("a destroyed share was printed")
	}
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }

func FuzzParseShare(f *testing.F) {
	k := shamirOf(f, ceremony(f), 2, 2)
	defer k.done()
	b := text(f, k.shares[0])
	f.Add(b)
	f.Add(bytes.ToUpper(b))
	f.Add(b[:50])
	f.Add([]byte("kshare1-"))
	f.Add([]byte("kshare1" + strings.Repeat("q", 146)))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		s, err := seal.ParseShare(b)
		if !bytes.Equal(b, before) {
			t.Error("the caller's text was changed")
		}
		if err != nil {
			if !errs.Is(err, errs.ShareRefused) {
				t.Errorf("%v", err)
			}
			return
		}
		defer s.Destroy()
		fold := func(b []byte) []byte {
			b = bytes.Map(func(r rune) rune {
				if strings.ContainsRune("- \t\r\n", r) {
					return -1
				}
				return r
			}, b)
			return bytes.ToLower(b)
		}
		if !bytes.Equal(fold(text(t, s)), fold(b)) {
			t.Error("one share has two texts")
		}
	})
}
