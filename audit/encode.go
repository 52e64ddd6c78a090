package audit

import (
	"encoding/hex"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// timeLayout is RFC 3339 in UTC with milliseconds, always 24 bytes.
const timeLayout = "2006-01-02T15:04:05.000Z"

// Times outside this range have no 24-byte form and are clamped: a broken clock
// must not stop the log.
const (
	minTimeMs = 0
	maxTimeMs = 253402300799999 // 9999-12-31T23:59:59.999Z
)

// AppendLine appends the line of r, without a newline, to b and returns it.
// Fields stand in a fixed order; those that do not apply are left out. The order
// and the names are a stored format: changing them breaks every chain.
func AppendLine(b []byte, r *Record) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, r.Seq, 10)
	b = append(b, `,"prev":"`...)
	b = hex.AppendEncode(b, r.Prev[:])
	b = append(b, `","time":"`...)
	b = appendTime(b, min(max(r.TimeMs, minTimeMs), maxTimeMs))
	b = append(b, '"')
	b = appendText(b, "node", r.Node, MaxNode)
	b = appendName(b, "class", r.Class.String())
	b = appendName(b, "phase", r.Phase.String())
	b = appendText(b, "act", r.Act, MaxAct)
	if r.Outcome != errs.OutcomeUnspecified {
		b = appendName(b, "outcome", r.Outcome.String())
	}
	b = appendText(b, "correlation", string(r.Correlation), maxCorrelation)
	b = appendUint(b, "attempt", uint64(r.Attempt))
	b = appendText(b, "object", r.Object, MaxObject)
	b = appendText(b, "principal", r.Principal, MaxPrincipal)
	b = appendText(b, "role", r.Role, MaxRole)
	b = appendText(b, "via", r.Via, MaxNode)
	b = appendText(b, "approval", r.Approval, MaxApproval)
	b = appendText(b, "approved_by", r.ApprovedBy, MaxApprovedBy)
	if r.Code.Valid() {
		b = appendName(b, "code", r.Code.String())
	}
	b = appendUint(b, "latency_us", r.LatencyUs)
	b = appendUint(b, "bytes_in", r.BytesIn)
	b = appendUint(b, "bytes_out", r.BytesOut)
	b = appendText(b, "key_version", r.KeyVersion, MaxKeyVersion)
	b = appendText(b, "keystore_request", r.KeystoreRequest, MaxKeystoreRequest)
	b = appendUint(b, "count", r.Count)
	b = appendText(b, "cause", r.Cause, MaxCause)
	return append(b, '}')
}

// appendTime writes ms in timeLayout, as time's AppendFormat does at four times the
// cost: it reads the layout anew. Records are encoded one after the other, under the
// lock of the log.
func appendTime(b []byte, ms int64) []byte {
	t := time.UnixMilli(ms).UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = appendDigits(b, year, 4, '-')
	b = appendDigits(b, int(month), 2, '-')
	b = appendDigits(b, day, 2, 'T')
	b = appendDigits(b, hour, 2, ':')
	b = appendDigits(b, minute, 2, ':')
	b = appendDigits(b, second, 2, '.')
	return appendDigits(b, int(ms%1000), 3, 'Z')
}

// appendDigits writes v with so many digits, and what stands behind it.
func appendDigits(b []byte, v, digits int, end byte) []byte {
	start := len(b)
	b = append(b, "0000"[:digits]...)
	for i := len(b) - 1; i >= start; i-- {
		b[i] = lowerHex[v%10]
		v /= 10
	}
	return append(b, end)
}

// appendName writes a value of a closed set, which needs no escaping.
func appendName(b []byte, name, value string) []byte {
	b = appendKey(b, name)
	b = append(b, '"')
	b = append(b, value...)
	return append(b, '"')
}

func appendUint(b []byte, name string, v uint64) []byte {
	if v == 0 {
		return b
	}
	return strconv.AppendUint(appendKey(b, name), v, 10)
}

func appendText(b []byte, name, value string, limit int) []byte {
	if value == "" {
		return b
	}
	b = append(appendKey(b, name), '"')
	if len(value) <= limit && plainLen(value) == len(value) { // nearly every one
		b = append(b, value...)
	} else {
		b = appendEscaped(b, fit(value, limit))
	}
	return append(b, '"')
}

func appendKey(b []byte, name string) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	return append(b, `":`...)
}

// cutMark ends a text that was longer than its limit.
const cutMark = "[cut]"

// fit returns s as valid UTF-8 of at most limit bytes.
func fit(s string, limit int) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\ufffd")
	}
	if len(s) <= limit {
		return s
	}
	end := limit - len(cutMark)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + cutMark
}

// asItIs are the bytes that stand in a line as they are.
//
//nolint:gochecknoglobals // Immutable table.
var asItIs = func() (t [256]bool) {
	for c := range t {
		t[c] = plain(byte(c))
	}
	return t
}()

// plainLen returns how many bytes s begins with that need no escaping.
func plainLen(s string) int {
	i := 0
	for i < len(s) && asItIs[s[i]] {
		i++
	}
	return i
}

const lowerHex = "0123456789abcdef"

// appendEscaped writes s, valid UTF-8, as the inside of a JSON string of
// printable ASCII. Everything beyond ASCII is escaped too: a log is read in
// terminals, and a bidirectional control or an escape sequence in a resource id
// must not be able to change what the reader sees (I6).
func appendEscaped(b []byte, s string) []byte {
	start := 0
	for i := 0; i < len(s); {
		if n := plainLen(s[i:]); n > 0 {
			i += n
			continue
		}
		c := s[i]
		b = append(b, s[start:i]...)
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
			i++
		case c < utf8.RuneSelf:
			b = appendUnit(b, rune(c))
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			if r < 0x10000 {
				b = appendUnit(b, r)
			} else {
				r -= 0x10000
				b = appendUnit(b, 0xd800+r>>10)
				b = appendUnit(b, 0xdc00+r&0x3ff)
			}
			i += n
		}
		start = i
	}
	return append(b, s[start:]...)
}

// appendUnit writes one UTF-16 code unit as \uXXXX.
func appendUnit(b []byte, u rune) []byte {
	return append(b, '\\', 'u', lowerHex[u>>12&15], lowerHex[u>>8&15], lowerHex[u>>4&15], lowerHex[u&15])
}
