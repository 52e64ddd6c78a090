package memsec_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

// sentinel is key-sized, and none of its encodings turns up by chance.
const sentinel = "SENTINELsentinelSENTINELsentinel"

// forms are the ways in which printers and encoders may write the sentinel.
func forms() []string {
	b := []byte(sentinel)
	decimals := strings.Trim(fmt.Sprintf("%d", b), "[]")
	var goSyntax []string
	for _, c := range b {
		goSyntax = append(goSyntax, fmt.Sprintf("0x%x", c))
	}
	// Every form is cut down to an inner piece, so that half a leak is found
	// too: eight bytes in the middle.
	mid := b[8:16]
	return []string{
		string(mid), hex.EncodeToString(mid), strings.ToUpper(hex.EncodeToString(mid)),
		base64.StdEncoding.EncodeToString(b[9:18]), decimals[20:60], strings.Join(goSyntax[8:16], ", "),
		strings.ReplaceAll(decimals[20:60], " ", ","), fmt.Sprintf("% x", mid), fmt.Sprintf("%q", mid),
	}
}

func leak(s string) string {
	for _, f := range forms() {
		if strings.Contains(s, f) {
			return f
		}
	}
	return ""
}

type holder struct {
	Exported   any
	unexported any
}

type typed struct {
	S memsec.Secret
	A memsec.AEAD
	s memsec.Secret
	a memsec.AEAD
}

type embedded struct{ memsec.Secret }

// shapes wraps v the ways in which values reach printers.
func shapes(s memsec.Secret, a memsec.AEAD) map[string]any {
	m := map[string]any{
		"typed":            typed{S: s, A: a, s: s, a: a},
		"typed pointer":    &typed{S: s, A: a, s: s, a: a},
		"embedded":         embedded{s},
		"embedded pointer": &embedded{s},
	}
	for name, v := range map[string]any{"secret": s, "aead": a} {
		p := reflect.New(reflect.TypeOf(v))
		p.Elem().Set(reflect.ValueOf(v))
		m[name] = v
		m[name+" pointer"] = p.Interface()
		m[name+" slice"] = []any{v}
		m[name+" map value"] = map[string]any{"k": v}
		m[name+" map key"] = map[any]string{v: "k"}
		m[name+" field"] = holder{Exported: v}
		m[name+" unexported field"] = holder{unexported: v}
		m[name+" unexported pointer field"] = &holder{unexported: p.Interface()}
		m[name+" deep"] = []holder{{unexported: map[string]any{"k": []any{v, &holder{unexported: v}}}}}
		m[name+" error"] = fmt.Errorf("with %v and %w", v, fmt.Errorf("%+v", v))
	}
	return m
}

// walk prints everything that reflection and unsafe can reach from v, as the
// printers of debuggers and test libraries do: unexported fields, pointers,
// interfaces, and pointers hidden in integers.
func walk(w *strings.Builder, v reflect.Value, depth int) {
	if depth > 20 || !v.IsValid() {
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		walk(w, v.Elem(), depth+1)
	case reflect.Struct:
		if !v.CanAddr() {
			c := reflect.New(v.Type()).Elem()
			c.Set(v)
			v = c
		}
		for _, f := range v.Fields() {
			f = reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem() // past the unexported flag
			walk(w, f, depth+1)
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			for i := range v.Len() {
				w.WriteByte(byte(v.Index(i).Uint()))
			}
			return
		}
		for i := range v.Len() {
			walk(w, v.Index(i), depth+1)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			walk(w, k, depth+1)
			walk(w, v.MapIndex(k), depth+1)
		}
	case reflect.String:
		w.WriteString(v.String())
	case reflect.Uint64:
		w.WriteString(strconv.FormatUint(v.Uint(), 16))
	default:
		fmt.Fprintf(w, "<%s>", v.Kind())
	}
}

// outputs is every printer and encoder of the sweep.
func outputs(v any) map[string]string {
	out := map[string]string{}
	for _, verb := range "vTtbcdoOqxXUeEfFgGspwz" {
		for _, flag := range []string{"", "+", "#", "-", " ", "0", "60", ".40", "#+60.40"} {
			f := "%" + flag + string(verb)
			out[f] = fmt.Sprintf(f, v)
		}
	}
	out["Print"] = fmt.Sprint(v) + fmt.Sprintln(v)
	var text, js bytes.Buffer
	ctx := context.Background()
	slog.New(slog.NewTextHandler(&text, nil)).InfoContext(ctx, "m", slog.Any("k", v), slog.Group("g", slog.Any("k", v)))
	slog.New(slog.NewJSONHandler(&js, nil)).InfoContext(ctx, "m", slog.Any("k", v), slog.Group("g", slog.Any("k", v)))
	out["slog text"], out["slog json"] = text.String(), js.String()
	j, err := json.Marshal(v)
	out["json"] = fmt.Sprint(string(j), err)
	x, err := xml.Marshal(v)
	out["xml"] = fmt.Sprint(string(x), err)
	var g bytes.Buffer
	err = gob.NewEncoder(&g).Encode(v)
	out["gob"] = fmt.Sprint(g.String(), err)
	out["cmp"] = cmp.Diff(v, 1, cmp.Exporter(func(reflect.Type) bool { return true }))
	var w strings.Builder
	walk(&w, reflect.ValueOf(v), 0)
	out["walk"] = w.String()
	return out
}

func sentinelSecret(t *testing.T, c memsec.Class) (memsec.Secret, memsec.AEAD) {
	t.Helper()
	s, err := memsec.Take([]byte(sentinel), c)
	if err != nil {
		t.Fatal(err)
	}
	a, err := memsec.NewAEAD(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Destroy(); a.Destroy() })
	return s, a
}

func TestI1_NothingPrintsAByte(t *testing.T) {
	for _, c := range []memsec.Class{memsec.Cold, memsec.Hot} {
		s, a := sentinelSecret(t, c)
		for shape, v := range shapes(s, a) {
			for how, text := range outputs(v) {
				if f := leak(text); f != "" {
					t.Errorf("%s %s by %s shows %q in %q", c, shape, how, f, text)
				}
			}
		}
	}
}

// The sweep must be able to find something: the same printers on plain bytes.
func TestI1_SweepFindsPlainBytes(t *testing.T) {
	type plain struct{ B, b []byte }
	v := &plain{B: []byte(sentinel), b: []byte(sentinel)}
	out := outputs(v)
	for _, how := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d", "Print", "json", "xml", "gob", "walk", "slog text", "slog json"} {
		if leak(out[how]) == "" {
			t.Errorf("%s of plain bytes is not recognised as a leak: %q", how, out[how])
		}
	}
}

func TestI1_ErrorsAndStatusAreSilent(t *testing.T) {
	s, a := sentinelSecret(t, memsec.Hot)
	var texts []string
	note := func(err error) {
		if err == nil {
			t.Error("expected an error")
			return
		}
		texts = append(texts, fmt.Sprintf("%v %+v %#v", err, err, err))
	}
	_, err := a.Open(nil, []byte(sentinel)[:12], []byte(sentinel), nil)
	note(err)
	_, err = a.Seal(nil, []byte(sentinel), []byte(sentinel), nil)
	note(err)
	note(reveal.With(s, func([]byte) error { return fmt.Errorf("of the callback") }))
	long, err := memsec.Take([]byte(sentinel+sentinel), memsec.Hot)
	if err != nil {
		t.Fatal(err)
	}
	_, err = memsec.NewAEAD(long)
	note(err)
	long.Destroy()
	_, err = memsec.Expand(long, []byte(sentinel), memsec.Hot)
	note(err)
	texts = append(texts, fmt.Sprintf("%+v", memsec.Report()))
	for _, text := range texts {
		if f := leak(text); f != "" {
			t.Errorf("%q shows %q", text, f)
		}
	}
}

func TestI1_HandleIsSmallComparableAndPointerFree(t *testing.T) {
	for _, typ := range []reflect.Type{reflect.TypeFor[memsec.Secret](), reflect.TypeFor[memsec.AEAD]()} {
		if typ.Size() > 16 || !typ.Comparable() {
			t.Errorf("%s: size %d, comparable %v", typ, typ.Size(), typ.Comparable())
		}
		for f := range typ.Fields() {
			if k := f.Type.Kind(); k != reflect.Uint64 {
				t.Errorf("%s has a field of kind %s", typ, k)
			}
		}
	}
}

func TestI1_EncodersRefuse(t *testing.T) {
	s, a := sentinelSecret(t, memsec.Hot)
	for name, v := range map[string]any{"secret": s, "aead": a, "secret pointer": &s, "field": struct{ S memsec.Secret }{s}} {
		if _, err := json.Marshal(v); err == nil {
			t.Errorf("json encodes %s", name)
		}
		if _, err := xml.Marshal(v); err == nil {
			t.Errorf("xml encodes %s", name)
		}
		if err := gob.NewEncoder(&bytes.Buffer{}).Encode(v); err == nil {
			t.Errorf("gob encodes %s", name)
		}
	}
	for _, m := range []interface{ MarshalBinary() ([]byte, error) }{s, a} {
		if _, err := m.MarshalBinary(); err == nil {
			t.Errorf("%T has a binary form", m)
		}
	}
}
