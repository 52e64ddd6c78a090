package audit

import (
	"encoding/hex"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

var errLine = errors.New("not a line of an audit log")

// DecodeLine reads one line without its newline. It accepts exactly what
// [AppendLine] writes (I3): a reader that accepted more would let a line be
// changed without changing what it seems to say.
func DecodeLine(line []byte) (Record, error) {
	return decode(line, keepText)
}

type keep bool

const (
	keepText keep = true
	skipText keep = false // check texts and drop them: verifying a chain needs none
)

// decode is a parser for the one order of fields and not encoding/json, which
// accepts many spellings of a record, and is ten times slower than the hash.
func decode(line []byte, k keep) (Record, error) {
	if len(line) > MaxLine {
		return Record{}, errLine
	}
	p := parser{rest: line, keep: k}
	var r Record
	p.lit(`{"seq":`)
	r.Seq = p.number()
	p.lit(`,"prev":"`)
	if raw := p.take(2 * len(r.Prev)); raw != nil {
		if _, err := hex.Decode(r.Prev[:], raw); err != nil || hasUpper(raw) {
			p.bad = true
		}
	}
	p.lit(`","time":"`)
	if raw := p.take(len(timeLayout)); raw != nil {
		r.TimeMs = p.time(raw)
	}
	p.lit(`"`)
	r.Node = p.text("node", MaxNode)
	r.Class = closed(&p, "class", Data, Control)
	r.Phase = closed(&p, "phase", Whole, Intent, Outcome, Correction)
	r.Act = p.text("act", MaxAct)
	if p.key("outcome") {
		r.Outcome = value(&p, errs.OutcomeOK, errs.OutcomeDenied, errs.OutcomeRefused, errs.OutcomeFailed, errs.OutcomeUnknown, errs.OutcomePending)
	}
	r.Correlation = corr.ID(p.text("correlation", maxCorrelation))
	attempt := p.uint("attempt")
	r.Attempt = uint32(attempt) //nolint:gosec // Checked on the next line.
	if uint64(r.Attempt) != attempt {
		p.bad = true
	}
	r.Object = p.text("object", MaxObject)
	r.Principal = p.text("principal", MaxPrincipal)
	r.Role = p.text("role", MaxRole)
	r.Via = p.text("via", MaxNode)
	r.Approval = p.text("approval", MaxApproval)
	r.ApprovedBy = p.text("approved_by", MaxApprovedBy)
	if p.key("code") {
		r.Code = p.code()
	}
	r.LatencyUs = p.uint("latency_us")
	r.BytesIn = p.uint("bytes_in")
	r.BytesOut = p.uint("bytes_out")
	r.KeyVersion = p.text("key_version", MaxKeyVersion)
	r.KeystoreRequest = p.text("keystore_request", MaxKeystoreRequest)
	r.Count = p.uint("count")
	r.Cause = p.text("cause", MaxCause)
	p.lit(`}`)
	if p.bad || len(p.rest) != 0 || r.Seq == 0 {
		return Record{}, errLine
	}
	return r, nil
}

// parser reads a line from the front. The first mismatch sets bad; after that
// nothing is read any more.
type parser struct {
	rest []byte
	keep keep
	bad  bool
}

func (p *parser) lit(s string) {
	if p.bad || len(p.rest) < len(s) || string(p.rest[:len(s)]) != s {
		p.bad = true
		return
	}
	p.rest = p.rest[len(s):]
}

func (p *parser) take(n int) []byte {
	if p.bad || len(p.rest) < n {
		p.bad = true
		return nil
	}
	raw := p.rest[:n]
	p.rest = p.rest[n:]
	return raw
}

// key consumes `,"name":` if it stands next.
func (p *parser) key(name string) bool {
	n := len(name) + 4
	if p.bad || len(p.rest) < n || p.rest[0] != ',' || p.rest[1] != '"' ||
		string(p.rest[2:n-2]) != name || p.rest[n-2] != '"' || p.rest[n-1] != ':' {
		return false
	}
	p.rest = p.rest[n:]
	return true
}

// number reads a decimal number without sign or leading zeros, at least 1.
func (p *parser) number() uint64 {
	var v uint64
	n := 0
	for n < len(p.rest) && p.rest[n] >= '0' && p.rest[n] <= '9' {
		d := uint64(p.rest[n] - '0')
		if v > (1<<64-1-d)/10 {
			p.bad = true
			return 0
		}
		v = v*10 + d
		n++
	}
	if p.bad || n == 0 || p.rest[0] == '0' {
		p.bad = true
		return 0
	}
	p.rest = p.rest[n:]
	return v
}

func (p *parser) uint(name string) uint64 {
	if !p.key(name) {
		return 0
	}
	return p.number()
}

// time reads the 24 bytes of timeLayout. It is not time.Parse, which accepts
// other spellings of the fraction and the zone, and takes longer than the hash.
func (p *parser) time(raw []byte) int64 {
	var n [len(timeLayout)]int // the number that ends at each position
	sum := 0
	for i, c := range raw {
		if want := timeLayout[i]; want < '0' || want > '9' {
			p.bad = p.bad || c != want
			sum = 0
			continue
		}
		if c < '0' || c > '9' {
			p.bad = true
			return 0
		}
		sum = 10*sum + int(c-'0')
		n[i] = sum
	}
	year, month, day, hour, minute, second, ms := n[3], n[6], n[9], n[12], n[15], n[18], n[22]
	t := time.Date(year, time.Month(month), day, hour, minute, second, ms*int(time.Millisecond), time.UTC)
	// time.Date carries what is out of range over to the next field.
	if t.Month() != time.Month(month) || t.Day() != day || t.Hour() != hour || t.Minute() != minute || t.Second() != second || t.UnixMilli() < minTimeMs {
		p.bad = true
	}
	return t.UnixMilli()
}

// name reads a quoted value of a closed set.
func (p *parser) name() []byte {
	p.lit(`"`)
	n := 0
	for n < len(p.rest) && p.rest[n] != '"' {
		n++
	}
	raw := p.take(n)
	p.lit(`"`)
	return raw
}

// code reads the name of an error code; unlike errs.ByName it allocates nothing.
func (p *parser) code() errs.Code {
	raw := p.name()
	for c := errs.Unspecified + 1; c.Valid(); c++ {
		if c.String() == string(raw) {
			return c
		}
	}
	p.bad = true
	return errs.Unspecified
}

// text reads an optional text field.
func (p *parser) text(name string, limit int) string {
	if !p.key(name) {
		return ""
	}
	p.lit(`"`)
	n := 0
	for n < len(p.rest) && plain(p.rest[n]) {
		n++
	}
	if n < len(p.rest) && p.rest[n] == '\\' {
		return p.escaped(limit)
	}
	raw := p.take(n)
	p.lit(`"`)
	if n == 0 || n > limit {
		p.bad = true
	}
	if p.bad || p.keep == skipText {
		return ""
	}
	return string(raw)
}

func plain(c byte) bool { return c >= ' ' && c <= '~' && c != '"' && c != '\\' }

// escaped reads the rest of a text that has escapes, and its closing quote.
func (p *parser) escaped(limit int) string {
	var b strings.Builder
	for !p.bad {
		if len(p.rest) == 0 {
			p.bad = true
			break
		}
		switch c := p.rest[0]; {
		case c == '"':
			p.rest = p.rest[1:]
			if b.Len() > limit {
				p.bad = true
			}
			return b.String()
		case plain(c):
			b.WriteByte(c)
			p.rest = p.rest[1:]
		case len(p.rest) > 1 && (p.rest[1] == '"' || p.rest[1] == '\\') && c == '\\':
			b.WriteByte(p.rest[1])
			p.rest = p.rest[2:]
		default:
			b.WriteRune(p.escapedRune())
		}
	}
	return ""
}

// escapedRune reads \uXXXX, or two of them that are a surrogate pair, and only
// for what the encoder escapes.
func (p *parser) escapedRune() rune {
	r := p.unit()
	switch {
	case r >= 0xd800 && r < 0xdc00:
		low := p.unit()
		if low < 0xdc00 || low > 0xdfff {
			p.bad = true
			return utf8.RuneError
		}
		return 0x10000 + (r-0xd800)<<10 + (low - 0xdc00)
	case r >= 0xdc00 && r <= 0xdfff, r >= ' ' && r <= '~':
		p.bad = true
	}
	return r
}

func (p *parser) unit() rune {
	p.lit(`\u`)
	raw := p.take(4)
	if raw == nil {
		return utf8.RuneError
	}
	var r rune
	for _, c := range raw {
		d := strings.IndexByte(lowerHex, c)
		if d < 0 {
			p.bad = true
			return utf8.RuneError
		}
		r = r<<4 | rune(d) //nolint:gosec // 0..15.
	}
	return r
}

// closed reads a field that must be there and whose value is one of all.
func closed[T interface{ String() string }](p *parser, key string, all ...T) T {
	if !p.key(key) {
		p.bad = true
	}
	return value(p, all...)
}

func value[T interface{ String() string }](p *parser, all ...T) T {
	raw := p.name()
	for _, v := range all {
		if v.String() == string(raw) {
			return v
		}
	}
	p.bad = true
	var none T
	return none
}

func hasUpper(b []byte) bool {
	for _, c := range b {
		if c >= 'A' && c <= 'F' {
			return true
		}
	}
	return false
}
