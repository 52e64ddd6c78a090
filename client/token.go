package client

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"

	"google.golang.org/grpc/credentials"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// MaxTokenBytes is the largest token that a token file may hold. A node takes
// none that is larger.
const MaxTokenBytes = 8 << 10

// tokens returns the token to show with an attempt. It is a function and no type
// with a field, so that no print of a client, of its options or of a call option
// can show what is in it.
type tokens func() string

// tokenFile reads the token of a file, now and whenever it is asked for one.
//
// Reading it each time costs microseconds. Looking first whether the file has
// changed would miss a token that was written over one of the same length within
// a tick of the file system's clock.
//
// The mode of the file is not looked at: the kubelet writes tokens with 0644, into
// a directory that only the pod has.
//
// A file that cannot be read later, is empty or is half written leaves the token
// that was read before: it is good until its issuer or the node says otherwise. A
// pipe, such as a shell's <(...), is read once.
func tokenFile(path string) (tokens, error) {
	last, err := readToken(path)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			if now, err := readToken(path); err == nil {
				last = now
			}
		}
		return last
	}, nil
}

const tokenHint = "KRYPTON_TOKEN_FILE or Options.TokenFile names a file that holds one token and nothing else"

// readToken returns the token of a file, without the newline behind it. Nothing
// of what is in the file is in an error.
func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", errs.New(errs.InvalidConfig, "read token file: "+err.Error(), errs.Cause(err), errs.Hint(tokenHint))
	}
	defer f.Close()                                            //nolint:errcheck // Only read from.
	raw, err := io.ReadAll(io.LimitReader(f, MaxTokenBytes+3)) // with a newline, and one byte that is too much
	defer clear(raw)
	if err != nil {
		return "", errs.New(errs.InvalidConfig, "read token file: "+err.Error(), errs.Cause(err), errs.Hint(tokenHint))
	}
	return parseToken(raw, path)
}

// parseToken takes what RFC 6750 lets stand behind "Bearer", and so refuses a
// private key, a JSON document or a header line that was given by mistake before
// it leaves the machine.
func parseToken(raw []byte, path string) (string, error) {
	token := string(raw)
	if cut, ok := strings.CutSuffix(token, "\n"); ok {
		token = strings.TrimSuffix(cut, "\r")
	}
	switch {
	case len(token) > MaxTokenBytes:
		return "", errs.Newf(errs.InvalidConfig, "token file %s holds more than %d bytes", path, MaxTokenBytes).With(errs.Hint(tokenHint))
	case token == "":
		return "", errs.Newf(errs.InvalidConfig, "token file %s holds no token", path).With(errs.Hint(tokenHint))
	case !isToken(token):
		return "", errs.Newf(errs.InvalidConfig, "token file %s holds something else than one token", path).
			With(errs.Hint("it has to be the bare token: no quotes, spaces, further lines or \"Bearer\" before it"))
	}
	return token, nil
}

// isToken reports whether text is a b64token of RFC 6750.
func isToken(text string) bool {
	body := strings.TrimRight(text, "=")
	for i := range len(body) {
		switch c := body[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~+/", c) >= 0:
		default:
			return false
		}
	}
	return body != ""
}

// bearer shows a token with each attempt.
type bearer struct{ token tokens }

var _ credentials.PerRPCCredentials = bearer{}

// GetRequestMetadata implements [credentials.PerRPCCredentials]. gRPC asks once a
// connection is there, so a call that had to wait for one has the token of now.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if b.token == nil {
		return nil, errors.New("no token")
	}
	return map[string]string{"authorization": "Bearer " + b.token()}, nil
}

// RequireTransportSecurity implements [credentials.PerRPCCredentials]: gRPC refuses
// to send it over anything but TLS.
func (bearer) RequireTransportSecurity() bool { return true } // I7
