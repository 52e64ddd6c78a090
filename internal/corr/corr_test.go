package corr_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/openkcm/krypton-cluster/internal/corr"
)

var form = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

func TestI1_IdsAreLowerCaseUUIDs(t *testing.T) {
	t.Parallel()
	id, err := corr.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if !form.MatchString(string(id)) {
		t.Errorf("made %q", id)
	}
	got, err := corr.Parse(strings.ToUpper(string(id)))
	if err != nil || got != id {
		t.Errorf("Parse of upper case = %q, %v; want %q", got, err, id)
	}
}

func TestI2_IdsAreVersion7UniqueAndSortable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		seen := map[corr.ID]bool{}
		var last corr.ID
		for range 1000 {
			id, err := corr.New(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if id[14] != '7' || !strings.ContainsRune("89ab", rune(id[19])) {
				t.Fatalf("%q is not a UUIDv7", id)
			}
			if seen[id] {
				t.Fatalf("%q was made twice", id)
			}
			if id <= last {
				t.Fatalf("%q, made after %q, sorts before it", id, last)
			}
			seen[id], last = true, id
			time.Sleep(time.Millisecond) // the bubble's time
		}
	})
}

func TestAFailingRandomSourceFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("no entropy")
	if id, err := corr.New(iotest.ErrReader(broken)); !errors.Is(err, broken) || id != "" {
		t.Errorf("New = %q, %v", id, err)
	}
	if _, err := corr.New(bytes.NewReader(make([]byte, 3))); err == nil {
		t.Error("a short random source made an id")
	}
}

func TestParseRefusesOtherForms(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "x", "0193f1e2-7b3c-7abc-8def-0123456789a", "0193f1e27b3c7abc8def0123456789ab",
		"{0193f1e2-7b3c-7abc-8def-0123456789ab}", "urn:uuid:0193f1e2-7b3c-7abc-8def-0123456789ab",
		"0193f1e2-7b3c-7abc-8def-0123456789ag", "0193f1e2_7b3c_7abc_8def_0123456789ab", strings.Repeat("a", 36),
	} {
		if id, err := corr.Parse(s); err == nil {
			t.Errorf("Parse(%q) = %q", s, id)
		} else if s != "" && strings.Contains(err.Error(), s) && len(s) > 8 {
			t.Errorf("the error repeats what the caller sent: %v", err)
		}
	}
}

func TestTraceparent(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]corr.ID{
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01": "4bf92f35-77b3-4da6-a3ce-929d0e0e4736",
		"": "",
		"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01":       "",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01":       "",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01":       "",
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01":       "",
		"00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01":       "",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902bX-01":       "",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0Z":       "",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7":          "",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra": "",
	} {
		got, ok := corr.FromTraceparent(header)
		if got != want || ok != (want != "") {
			t.Errorf("FromTraceparent(%q) = %q, %t; want %q", header, got, ok, want)
		}
	}
}

func TestContextCarriesTheId(t *testing.T) {
	t.Parallel()
	if got := corr.From(t.Context()); got != "" {
		t.Errorf("an empty context has %q", got)
	}
	ctx := corr.With(t.Context(), "a")
	if got := corr.From(corr.With(ctx, "b")); got != "b" {
		t.Errorf("the inner id is %q", got)
	}
	if got := corr.From(ctx); got != "a" {
		t.Errorf("the outer id is %q", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "0193f1e2-7b3c-7abc-8def-0123456789ab", "0193F1E2-7B3C-7ABC-8DEF-0123456789AB", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := corr.Parse(s)
		if err != nil {
			return
		}
		if !form.MatchString(string(id)) || !strings.EqualFold(s, string(id)) {
			t.Errorf("Parse(%q) = %q", s, id)
		}
		if again, err := corr.Parse(string(id)); err != nil || again != id {
			t.Errorf("Parse is not stable: %q, %v", again, err)
		}
	})
}

func FuzzFromTraceparent(f *testing.F) {
	for _, s := range []string{"", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-----"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := corr.FromTraceparent(s)
		if ok != (id != "") || (ok && !form.MatchString(string(id))) {
			t.Errorf("FromTraceparent(%q) = %q, %t", s, id, ok)
		}
	})
}
