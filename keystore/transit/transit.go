package transit

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

// aadLabel begins the AAD of every blob. Changing it breaks stored blobs.
const aadLabel = "krypton/v1/transit"

// noType is the name of no key type (I1).
const noType = "krypton-makes-no-keys"

// farewell bounds the end of the session at Close.
const farewell = time.Second

var errClosed = errors.New("the keystore is closed")

// Provider is a transit engine. It implements [keystore.Importer].
type Provider struct {
	name     string
	mount    string
	settings settings
	clock    clock.Clock
	client   *client
	session  *session
	assumed  bool // it acts as the identity of a tenant

	life   context.Context //nolint:containedctx // The time from New to Close, which bounds every call.
	finish context.CancelFunc
	close  func() error

	mu    sync.Mutex
	over  bool
	calls sync.WaitGroup
}

var (
	_ keystore.Importer = (*Provider)(nil)
	_ keystore.Assumer  = (*Provider)(nil)
)

// New is the [keystore.Constructor] of this package.
func New(_ context.Context, env keystore.Env, cfg keystore.Config) (keystore.Provider, error) {
	refuse := func(err error) (keystore.Provider, error) {
		return nil, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: cfg.Name, Op: keystore.OpOpen}, err)
	}
	s, err := read(cfg)
	if err != nil {
		return refuse(err)
	}
	p, err := (&Provider{name: cfg.Name, clock: env.Clock}).open(s)
	if err != nil {
		return refuse(err)
	}
	return p, nil
}

// Close implements [keystore.Provider]. It ends calls that are under way, and
// the session.
func (p *Provider) Close() error { return p.close() }

func (p *Provider) shutdown() error {
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	p.finish()
	p.calls.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	p.session.end(ctx)
	p.client.transport.CloseIdleConnections()
	return nil
}

// call is one operation of the provider.
type call struct {
	op          keystore.Op
	key         keystore.KeyRef
	correlation corr.ID
	method      string
	path        string // below the API's root
	body        []byte // nil: none. It is wiped.
	secret      bool   // the answer holds a secret
	describes   bool   // it reads a key
	imports     bool   // it brings material, or asks how
}

// failed makes the error of an operation.
func (p *Provider) failed(c call, class keystore.Class, id keystore.RequestID, cause error) error {
	return keystore.NewError(keystore.Error{Class: class, Provider: p.name, Key: c.key, Op: c.op, RequestID: id}, cause)
}

// ask makes a call and decodes its answer into rep. It returns a [*keystore.Error].
func (p *Provider) ask(ctx context.Context, c call, rep replier) error {
	var out *outgoing
	if c.body != nil {
		out = newOutgoing(c.body)
		defer out.finish()
	}
	if err := ctx.Err(); err != nil {
		return p.failed(c, keystore.Unavailable, "", err)
	}
	p.mu.Lock()
	if p.over {
		p.mu.Unlock()
		return p.failed(c, keystore.Unavailable, "", errClosed)
	}
	p.calls.Add(1)
	p.mu.Unlock()
	defer p.calls.Done()
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.life, cancel)() //nolint:contextcheck // The provider's end ends the call, too.

	f := p.exchange(inner, c, out, rep)
	switch {
	case f == nil:
		return nil
	case ctx.Err() != nil:
		return p.failed(c, keystore.Unavailable, f.request, ctx.Err())
	case p.life.Err() != nil:
		return p.failed(c, keystore.Unavailable, f.request, errClosed)
	}
	return p.failed(c, f.class, f.request, f.cause)
}

// exchange makes the call, a second time with a new session if the server may
// not know the first one any more.
func (p *Provider) exchange(ctx context.Context, c call, out *outgoing, rep replier) *failure {
	for relogins := 0; ; relogins++ {
		g, err := p.session.get(ctx, c.correlation)
		if err != nil {
			return p.notAssumed(asFailure(err))
		}
		*rep.common() = reply{} // nothing of a first attempt's refusal stays
		res, err := p.client.send(ctx, request{method: c.method, path: c.path, token: g.token, correlation: c.correlation, body: out, secret: c.secret, imports: c.imports}, rep)
		if err != nil {
			return asFailure(err)
		}
		v, f := judge(res, rep, c)
		switch v {
		case verdictDone:
			return nil
		case verdictFailed:
			return f
		case verdictForbidden:
			// A session that was just made is known to the server, so what it
			// refuses is the path: that was withdrawn (I2).
			second, known := p.secondOpinion(ctx, c, g, f.request)
			if known {
				return second
			}
			if relogins > 0 && p.session.id.own() {
				return withdrawn(c, f.request)
			}
		case verdictTokenRefused:
		}
		p.session.drop(g)
		if relogins > 0 {
			return f
		}
	}
}

// notAssumed marks a refused login as the identity of a tenant.
func (p *Provider) notAssumed(f *failure) *failure {
	if !p.assumed || f.class != keystore.Misconfigured {
		return f
	}
	return fail(f.class, f.request, fmt.Errorf("%w: %w", keystore.ErrRefused, f.cause))
}

// withdrawn is the failure of a path that the policies deny. It is Denied for
// the use of a key. That a key may not be described says nothing about its use.
func withdrawn(c call, id keystore.RequestID) *failure {
	class := keystore.Denied
	if c.op != keystore.OpWrap && c.op != keystore.OpUnwrap && c.op != keystore.OpProve {
		class = keystore.Misconfigured
	}
	return fail(class, id, fmt.Errorf("no policy of this identity allows %s on %s", capability(c.method), c.path))
}

func capability(method string) string {
	if method == http.MethodGet {
		return "read"
	}
	return "update"
}

// capabilities is the answer of sys/capabilities-self.
type capabilities struct {
	reply

	Data struct {
		Capabilities []string `json:"capabilities"`
	} `json:"data"`
}

const capabilitiesPath = "sys/capabilities-self"

// capabilitiesOf asks what may be done on a path of names that need no escapes.
func capabilitiesOf(path string) []byte { return []byte(`{"paths":["` + path + `"]}`) }

// allow reports whether a call is allowed.
func (r *capabilities) allow(c call) bool {
	return slices.ContainsFunc([]string{capability(c.method), "root", "sudo"}, func(s string) bool { return slices.Contains(r.Data.Capabilities, s) })
}

// secondOpinion asks what the token may do on the path that was denied to it.
// known is false where that does not tell whether the token is accepted.
func (p *Provider) secondOpinion(ctx context.Context, c call, g *grant, id keystore.RequestID) (f *failure, known bool) {
	body := newOutgoing(capabilitiesOf(c.path))
	defer body.finish()
	var rep capabilities
	res, err := p.client.send(ctx, request{method: http.MethodPost, path: capabilitiesPath, token: g.token, correlation: c.correlation, body: body}, &rep)
	if err != nil {
		return asFailure(err), true
	}
	switch v, f := judge(res, &rep, call{}); v {
	case verdictFailed:
		return f, true
	case verdictTokenRefused, verdictForbidden:
		return nil, false
	case verdictDone:
	}
	switch {
	case !rep.allow(c):
		return withdrawn(c, id), true
	case c.op == keystore.OpWrap:
		// The server takes an encryption under a key that does not exist for
		// the creation of one, which is another capability.
		return fail(keystore.Denied, id, errors.New("there is no such key")), true
	}
	return fail(keystore.Unavailable, id, errors.New("the server denies the path and says that the policies allow it; nothing follows from that")), true
}

func asFailure(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	return fail(keystore.Unavailable, "", err)
}

// checkKey holds a reference to the name of a key under the mount.
func (p *Provider) checkKey(c call) error {
	if err := checkName(string(c.key)); err != nil {
		return p.failed(c, keystore.Misconfigured, "", fmt.Errorf("the reference is not the name of a key under %s: %w", p.mount, err))
	}
	return nil
}

// encrypted is the answer to an encryption.
type encrypted struct {
	reply

	Data struct {
		BatchResults [1]struct {
			Ciphertext string `json:"ciphertext"`
			Error      string `json:"error"`
		} `json:"batch_results"`
	} `json:"data"`
}

func (e *encrypted) item() string { return e.Data.BatchResults[0].Error }

// Wrap implements [keystore.Provider].
func (p *Provider) Wrap(ctx context.Context, req keystore.WrapRequest) (keystore.WrapResult, error) {
	c := call{op: keystore.OpWrap, key: req.Key, correlation: req.Correlation, method: http.MethodPost, path: p.mount + "/encrypt/" + string(req.Key)}
	if err := req.Check(p.name); err != nil {
		return keystore.WrapResult{}, err
	}
	if err := p.checkKey(c); err != nil {
		return keystore.WrapResult{}, err
	}
	const before, between, after = `{"type":"` + noType + `","batch_input":[{"plaintext":"`, `","associated_data":"`, `"}]}`
	enc, aad := base64.StdEncoding, fullAAD(req.Key, req.AAD)
	secret := enc.EncodedLen(req.Secret.Len())
	body := make([]byte, len(before)+secret, len(before)+secret+len(between)+enc.EncodedLen(len(aad))+len(after))
	copy(body, before)
	if err := reveal.With(req.Secret, func(b []byte) error {
		enc.Encode(body[len(before):], b)
		return nil
	}); err != nil {
		return keystore.WrapResult{}, p.failed(c, keystore.Unavailable, "", err)
	}
	c.body = append(enc.AppendEncode(append(body, between...), aad), after...)
	var rep encrypted
	if err := p.ask(ctx, c, &rep); err != nil {
		return keystore.WrapResult{}, err
	}
	blob := []byte(rep.Data.BatchResults[0].Ciphertext)
	version, err := parseBlob(blob)
	if err != nil {
		return keystore.WrapResult{}, p.failed(c, keystore.Unavailable, rep.RequestID, fmt.Errorf("the server gave a ciphertext that is none: %w", err))
	}
	return keystore.WrapResult{Blob: blob, KeyVersion: version, RequestID: rep.RequestID}, nil
}

// decrypted is the answer to a decryption.
type decrypted struct {
	reply

	Data struct {
		BatchResults [1]struct {
			Plaintext plaintext `json:"plaintext"`
			Error     string    `json:"error"`
		} `json:"batch_results"`
	} `json:"data"`
}

func (d *decrypted) item() string { return d.Data.BatchResults[0].Error }

// plaintext goes from the answer's buffer into protected memory as it is decoded.
type plaintext struct {
	class  memsec.Class
	secret memsec.Secret
}

var errPlaintext = errors.New("no secret")

// UnmarshalJSON implements json.Unmarshaler. b is a part of the answer's buffer.
func (p *plaintext) UnmarshalJSON(b []byte) error {
	if string(b) == "null" || string(b) == `""` {
		return nil
	}
	if len(b) < 2 || b[0] != '"' || b[len(b)-1] != '"' || !p.secret.IsZero() {
		return errPlaintext
	}
	b = b[1 : len(b)-1]
	n := base64.StdEncoding.DecodedLen(len(b))
	for i := len(b) - 1; i >= 0 && b[i] == '=' && n > 0; i-- {
		n--
	}
	if n < 1 || n > keystore.MaxSecret {
		return errPlaintext
	}
	var err error
	p.secret, err = reveal.New(n, p.class, func(dst []byte) error {
		got, err := base64.StdEncoding.Decode(dst, b)
		if err != nil || got != len(dst) {
			return errPlaintext
		}
		return nil
	})
	return err
}

// Unwrap implements [keystore.Provider].
func (p *Provider) Unwrap(ctx context.Context, req keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
	c := call{op: keystore.OpUnwrap, key: req.Key, correlation: req.Correlation, method: http.MethodPost, path: p.mount + "/decrypt/" + string(req.Key), secret: true}
	if err := req.Check(p.name); err != nil {
		return keystore.UnwrapResult{}, err
	}
	if err := p.checkKey(c); err != nil {
		return keystore.UnwrapResult{}, err
	}
	if err := ctx.Err(); err != nil {
		return keystore.UnwrapResult{}, p.failed(c, keystore.Unavailable, "", err)
	}
	version, err := parseBlob(req.Blob)
	if err != nil {
		return keystore.UnwrapResult{}, p.failed(c, keystore.Corrupt, "", err)
	}
	enc, aad := base64.StdEncoding, fullAAD(req.Key, req.AAD)
	c.body = slices.Concat([]byte(`{"batch_input":[{"ciphertext":"`), req.Blob, []byte(`","associated_data":"`), enc.AppendEncode(nil, aad), []byte(`"}]}`))
	var rep decrypted
	opened := &rep.Data.BatchResults[0].Plaintext
	opened.class = req.Class
	if err := p.ask(ctx, c, &rep); err != nil {
		opened.secret.Destroy()
		return keystore.UnwrapResult{}, err
	}
	if opened.secret.IsZero() {
		return keystore.UnwrapResult{}, p.failed(c, keystore.Corrupt, rep.RequestID, errors.New("the blob holds no secret"))
	}
	return keystore.UnwrapResult{Secret: opened.secret, KeyVersion: version, RequestID: rep.RequestID}, nil
}

// Health implements [keystore.Provider]: the server knows the node's token.
func (p *Provider) Health(ctx context.Context, id corr.ID) error {
	var rep reply
	return p.ask(ctx, call{op: keystore.OpHealth, correlation: id, method: http.MethodGet, path: "auth/token/lookup-self"}, &rep)
}

// fullAAD binds a blob to its key, where two keys may have the same material.
func fullAAD(ref keystore.KeyRef, aad []byte) []byte {
	b := make([]byte, 0, 8+len(aadLabel)+len(ref)+len(aad))
	b = binary.BigEndian.AppendUint32(b, uint32(len(aadLabel)))
	b = append(b, aadLabel...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(ref))) //nolint:gosec // At most keystore.MaxKeyRef.
	b = append(b, ref...)
	return append(b, aad...)
}

var errNoCiphertext = errors.New("the blob is not a ciphertext of a transit engine")

// parseBlob holds a blob to the one spelling that the engine writes, and
// returns its key version. The engine reads more: version 0 as 1, and base64
// with stray bits at its end.
func parseBlob(b []byte) (keystore.KeyVersion, error) {
	rest, ok := strings.CutPrefix(string(b), "vault:v")
	number, text, found := strings.Cut(rest, ":")
	n, err := strconv.ParseUint(number, 10, 31)
	if !ok || !found || err != nil || n == 0 || strconv.FormatUint(n, 10) != number {
		return "", errNoCiphertext
	}
	// The decoder skips line breaks, also in its strict form.
	if text == "" || strings.ContainsAny(text, "\r\n") {
		return "", errNoCiphertext
	}
	if _, err := base64.StdEncoding.Strict().DecodeString(text); err != nil {
		return "", errNoCiphertext
	}
	return keystore.KeyVersion(number), nil
}
