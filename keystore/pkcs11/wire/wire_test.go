package wire_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
)

func part(t *rapid.T, name string) []byte {
	return rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, name)
}

func TestI2_RequestsAndAnswersComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req := wire.Request{
			Call: rapid.Uint64().Draw(t, "call"), Op: wire.Op(rapid.IntRange(1, 10).Draw(t, "op")),
			Mechanism: blob.Mechanism(rapid.Byte().Draw(t, "mechanism")), Ref: string(part(t, "ref")),
			ID: part(t, "id"), IV: part(t, "iv"), AAD: part(t, "aad"), Wrapped: part(t, "wrapped"),
		}
		ans := wire.Answer{
			Call: req.Call, Status: wire.Status(rapid.IntRange(1, 14).Draw(t, "status")), Stage: wire.Stage(rapid.IntRange(0, 14).Draw(t, "stage")),
			CKR: rapid.Uint32().Draw(t, "ckr"), Mechanism: req.Mechanism, ID: req.ID, IV: req.IV, Wrapped: req.Wrapped,
		}
		payload := part(t, "payload")
		var stream bytes.Buffer
		for _, frame := range []func(int) ([]byte, []byte, error){req.Frame, ans.Frame} {
			b, room, err := frame(len(payload))
			if err != nil {
				t.Fatal(err)
			}
			if len(room) != len(payload) || cap(b) != len(b) {
				t.Fatalf("room for %d bytes in a buffer of %d of %d", len(room), len(b), cap(b))
			}
			copy(room, payload)
			stream.Write(b)
		}
		b, err := wire.ReadFrame(&stream)
		if err != nil {
			t.Fatal(err)
		}
		gotReq, gotPayload, err := wire.DecodeRequest(b)
		if diff := cmp.Diff(req, gotReq, cmpopts.EquateEmpty()); diff != "" || err != nil || !bytes.Equal(gotPayload, payload) {
			t.Fatal(diff, err)
		}
		if b, err = wire.ReadFrame(&stream); err != nil {
			t.Fatal(err)
		}
		gotAns, gotPayload, err := wire.DecodeAnswer(b)
		if diff := cmp.Diff(ans, gotAns, cmpopts.EquateEmpty()); diff != "" || err != nil || !bytes.Equal(gotPayload, payload) {
			t.Fatal(diff, err)
		}
		if _, err := wire.ReadFrame(&stream); !errors.Is(err, io.EOF) {
			t.Fatalf("at the end: %v", err)
		}
	})
}

func TestI1_LengthsThatLieAreRefused(t *testing.T) {
	sound, _, err := wire.Request{Op: wire.OpWrap, Ref: "key"}.Frame(4)
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n < len(sound); n++ {
		if _, err := wire.ReadFrame(bytes.NewReader(sound[:n])); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	for _, n := range []uint32{0, 7, wire.MaxFrame + 1, 1<<32 - 1} {
		// Nothing follows the length: a reader that believed it would wait, or
		// make the room, and find the end of the stream.
		if _, err := wire.ReadFrame(io.MultiReader(bytes.NewReader(binary.BigEndian.AppendUint32(nil, n)), never{t})); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("length %d: %v", n, err)
		}
	}
	if _, _, err := (wire.Request{Op: wire.OpWrap, AAD: make([]byte, wire.MaxFrame)}).Frame(0); err == nil {
		t.Error("a frame over the limit was made")
	}
	if _, _, err := (wire.Answer{Status: wire.StatusOK, Wrapped: make([]byte, 1<<20)}).Frame(0); err == nil {
		t.Error("a frame over the limit was made")
	}
	if _, _, err := (wire.Answer{Status: wire.StatusOK}).Frame(-1); err == nil {
		t.Error("a payload of -1 bytes was made")
	}
}

type never struct{ t *testing.T }

func (n never) Read([]byte) (int, error) {
	n.t.Error("read beyond a length that is out of limits")
	return 0, io.EOF
}

func TestUnknownOpsStatusesAndStagesAreMalformed(t *testing.T) {
	for _, op := range []wire.Op{0, 11, 255} {
		b, _, err := wire.Request{Op: op}.Frame(0)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := wire.DecodeRequest(b[4:]); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("op %d: %v", op, err)
		}
	}
	for _, a := range []wire.Answer{{}, {Status: 15}, {Status: wire.StatusOK, Stage: 15}} {
		b, _, err := a.Frame(0)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := wire.DecodeAnswer(b[4:]); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%+v: %v", a, err)
		}
	}
	for s := range wire.Stage(16) {
		if name := s.String(); (name == "") != (s == 0) || (name == "unknown") != (s > 14) {
			t.Errorf("stage %d is %q", s, name)
		}
	}
}

func TestHelloIsStrict(t *testing.T) {
	ok := wire.Hello{Version: wire.Version, Module: "/m.so", Label: "l", PINFile: "/p", Workers: 1}
	for name, c := range map[string]struct {
		change func(*wire.Hello)
		text   string
	}{
		"sound":           {func(*wire.Hello) {}, ""},
		"by serial":       {func(h *wire.Hello) { h.Label, h.Serial = "", "1" }, ""},
		"another version": {func(h *wire.Hello) { h.Version = 2 }, "install both from one release"},
		"no module":       {func(h *wire.Hello) { h.Module = "" }, "module"},
		"no token":        {func(h *wire.Hello) { h.Label = "" }, "label or serial"},
		"two tokens":      {func(h *wire.Hello) { h.Serial = "1" }, "label or serial"},
		"no PIN file":     {func(h *wire.Hello) { h.PINFile = "" }, "PIN file"},
		"no workers":      {func(h *wire.Hello) { h.Workers = 0 }, "workers"},
		"many workers":    {func(h *wire.Hello) { h.Workers = 65 }, "workers"},
	} {
		h := ok
		c.change(&h)
		data, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		got, err := wire.DecodeHello(data)
		if c.text == "" {
			if err != nil || got != h {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{"", "{", `{"version":1,"pin":"1234"}`, `{"version":1} {}`} {
		if _, err := wire.DecodeHello([]byte(text)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := wire.DecodeToken([]byte(`{"version":2}`)); err == nil || !strings.Contains(err.Error(), "install both from one release") {
		t.Errorf("a helper of another version: %v", err)
	}
	if _, err := wire.DecodeKey([]byte(`{"versions":[]}`)); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a key without a version: %v", err)
	}
}

func FuzzRequest(f *testing.F) {
	b, _, err := wire.Request{Op: wire.OpWrap, Ref: "key", AAD: []byte("a")}.Frame(3)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0, 0, 0, 8})
	f.Fuzz(func(t *testing.T, stream []byte) {
		frame, err := wire.ReadFrame(bytes.NewReader(stream))
		if err != nil {
			return
		}
		req, payload, err := wire.DecodeRequest(frame)
		if err != nil {
			return
		}
		again, room, err := req.Frame(len(payload))
		if err != nil {
			t.Fatal(err)
		}
		copy(room, payload)
		if !bytes.Equal(again[4:], frame) {
			t.Error("two frames have one content")
		}
	})
}

func FuzzAnswer(f *testing.F) {
	b, _, err := wire.Answer{Status: wire.StatusOK, Wrapped: []byte("w")}.Frame(3)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[4:])
	f.Fuzz(func(t *testing.T, frame []byte) {
		a, payload, err := wire.DecodeAnswer(frame)
		if err != nil {
			return
		}
		again, room, err := a.Frame(len(payload))
		if err != nil {
			t.Fatal(err)
		}
		copy(room, payload)
		if !bytes.Equal(again[4:], frame) {
			t.Error("two frames have one content")
		}
	})
}

func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"version":1,"module":"/m","label":"l","pin_file":"/p","workers":1}`))
	f.Add([]byte(`{"version":1,"label":"l"}`))
	f.Add([]byte(`{"versions":["01"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if h, err := wire.DecodeHello(data); err == nil && (h.Module == "" || h.Workers < 1) {
			t.Errorf("%+v", h)
		}
		if k, err := wire.DecodeToken(data); err == nil && k.Version != wire.Version {
			t.Errorf("%+v", k)
		}
		if k, err := wire.DecodeKey(data); err == nil && len(k.Versions) == 0 {
			t.Errorf("%+v", k)
		}
	})
}
