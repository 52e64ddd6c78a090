package agebox

import (
	"bufio"
	"bytes"
	"io"
)

// SaveQuickly is SaveEncrypted with a passphrase that is as quick to try as can be.
func SaveQuickly(i *Identities, w io.Writer, passphrase []byte) error {
	return i.saveEncrypted(w, passphrase, 1)
}

// ReadStanza reads one stanza and says how many bytes it has.
func ReadStanza(b []byte) (kind string, args []string, body []byte, read int, err error) {
	in := bytes.NewReader(b)
	r := bufio.NewReader(in)
	s, err := readStanza(r)
	if err != nil {
		return "", nil, nil, 0, err
	}
	return s.Type, s.Args, s.Body, len(b) - in.Len() - r.Buffered(), nil
}

// WriteStanza returns a stanza as it is written.
func WriteStanza(kind string, args []string, body []byte) []byte {
	var b bytes.Buffer
	_ = writeStanza(&b, kind, body, args...)
	return b.Bytes()
}
