package seal

import (
	"bytes"
	"fmt"
	"io"
)

// The text of a share, for people who copy, print and type it:
//
//	kshare1-qqqqqq-qqqqqq- ... -qqqqqq
//
// It is Bech32m (BIP-350) of the binary form with the prefix "kshare". Its
// alphabet has no characters that look alike, and its checksum finds every
// change of up to three characters, and nearly every other. Dashes, blanks,
// line ends and case do not matter.
const (
	textPrefix   = "kshare"
	textHead     = textPrefix + "1"
	alphabet     = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	textGroup    = 6
	checksumSize = 6
	dataSymbols  = (wireSize*8 + 4) / 5
	textSymbols  = dataSymbols + checksumSize
	bech32m      = 0x2bc830a3
)

// MaxShareText is the longest text that [ParseShare] looks at, in bytes: a
// share with a blank after every character.
const MaxShareText = 2 * (len(textHead) + 1 + textSymbols + textSymbols/textGroup + 8)

// Print writes the text of the share and a line end to w. It wipes its own
// copy; what w does with it is the caller's concern. The share is marked for a
// cluster before ([Share.ForCluster]).
func (s Share) Print(w io.Writer) error {
	var wire [wireSize]byte
	var symbols [textSymbols]byte
	var text [MaxShareText]byte
	defer clear(wire[:])
	defer clear(symbols[:])
	defer clear(text[:])
	b, err := s.appendWire(wire[:0])
	if err != nil {
		return err
	}
	toSymbols(symbols[:dataSymbols], b)
	sum := polymod(textPrefix, symbols[:dataSymbols], [checksumSize]byte{}) ^ bech32m
	for i := range checksumSize {
		symbols[dataSymbols+i] = byte(sum >> (5 * (checksumSize - 1 - i)) & 31)
	}
	out := append(text[:0], textHead...)
	for i, v := range symbols {
		if i%textGroup == 0 {
			out = append(out, '-')
		}
		out = append(out, alphabet[v])
	}
	out = append(out, '\n')
	_, err = w.Write(out)
	return err
}

// ParseShare reads the text of a share from people. Every mistake in it is
// found here, before anything is sent: the error has the code
// errs.ShareRefused, wraps [ErrShareText] or [ErrShareMistyped], and holds no
// character of the text. The caller owns text and wipes it.
func ParseShare(text []byte) (Share, error) {
	notShare := func(format string, args ...any) (Share, error) {
		return Share{}, refuseShare(ErrShareText, "this is not a share: "+fmt.Sprintf(format, args...),
			`a share is one line that starts with "kshare1-"; check that it is whole`)
	}
	if len(text) > MaxShareText {
		return notShare("it has %d characters, at most %d are looked at", len(text), MaxShareText)
	}
	var symbols [textSymbols]byte
	defer clear(symbols[:])
	n, head := 0, 0 // characters of the data part and of the head seen so far
	for i, c := range text {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		switch {
		case c == '-' || c == ' ' || c == '\t' || c == '\r' || c == '\n':
			continue
		case head < len(textHead):
			if c != textHead[head] {
				return notShare("it does not start with %q", textHead)
			}
			head++
			continue
		}
		v := bytes.IndexByte([]byte(alphabet), c)
		if v < 0 {
			return Share{}, refuseShare(ErrShareMistyped, fmt.Sprintf("character %d of the share is one that shares do not have", i+1),
				"type the share again; it has no 1, b, i or o after its start")
		}
		if n < textSymbols {
			symbols[n] = byte(v) //nolint:gosec // Less than 32.
		}
		n++
	}
	if head < len(textHead) {
		return notShare("it does not start with %q", textHead)
	}
	if n != textSymbols {
		return notShare("it has %d characters after its start, want %d", n, textSymbols)
	}
	if polymod(textPrefix, symbols[:dataSymbols], [checksumSize]byte(symbols[dataSymbols:])) != bech32m {
		return Share{}, refuseShare(ErrShareMistyped, "the share is mistyped: its checksum does not match", "type the share again and compare it group by group")
	}
	var wire [wireSize]byte
	defer clear(wire[:])
	if !fromSymbols(wire[:], symbols[:dataSymbols]) {
		return notShare("its last character has bits that belong to nothing")
	}
	return parseWire(wire[:])
}

// toSymbols spreads bytes over symbols of 5 bits; the last is filled with zeros.
func toSymbols(dst, src []byte) {
	acc, bits, n := uint32(0), 0, 0
	for _, b := range src {
		acc, bits = acc<<8|uint32(b), bits+8
		for bits >= 5 {
			bits -= 5
			dst[n] = byte(acc >> bits & 31)
			n++
		}
	}
	if bits > 0 {
		dst[n] = byte(acc << (5 - bits) & 31)
	}
}

// fromSymbols is the reverse. It reports whether the filling is zero, so that
// a share has one text only.
func fromSymbols(dst, src []byte) bool {
	acc, bits, n := uint32(0), 0, 0
	for _, v := range src {
		acc, bits = acc<<5|uint32(v), bits+5
		if bits >= 8 {
			bits -= 8
			dst[n] = byte(acc >> bits & 0xff)
			n++
		}
	}
	return acc&(1<<bits-1) == 0
}

// polymod is the checksum of Bech32 over prefix, data and the six symbols of
// the checksum itself.
func polymod(prefix string, data []byte, sum [checksumSize]byte) uint32 {
	chk := uint32(1)
	step := func(v byte) {
		top := chk >> 25
		chk = chk&0x1ffffff<<5 ^ uint32(v)
		for i, g := range [5]uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 == 1 {
				chk ^= g
			}
		}
	}
	for i := range len(prefix) {
		step(prefix[i] >> 5)
	}
	step(0)
	for i := range len(prefix) {
		step(prefix[i] & 31)
	}
	for _, v := range data {
		step(v)
	}
	for _, v := range sum {
		step(v)
	}
	return chk
}
