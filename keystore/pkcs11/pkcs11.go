//go:build unix

package pkcs11

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"strings"
	"sync"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

// domain is the label of this type's blobs. Changing it breaks stored blobs.
const domain = "krypton/v1/pkcs11"

const misconfigured = keystore.Misconfigured

// maxSelections bounds what is remembered of keys; it is only a shortcut.
const maxSelections = 4096

// Provider is a configured token. It implements [keystore.Provider]; what [New]
// returns is a [keystore.Importer] as well if import_key is set.
type Provider struct {
	name     string
	env      keystore.Env
	settings settings

	ctx  context.Context //nolint:containedctx // The life of the provider: starts of helpers belong to no call.
	stop context.CancelFunc

	pins ledger
	life lifecycle

	second chan struct{} // one second opinion at a time

	assumed bool // it logs in to the token of a tenant

	mu       sync.Mutex
	selected map[keystore.KeyRef]selection
}

// selection is which version and mechanism wrapped last under a key.
type selection struct {
	id        string // CKA_ID
	mechanism blob.Mechanism
}

// New is the [keystore.Constructor] of this package.
func New(ctx context.Context, env keystore.Env, cfg keystore.Config) (keystore.Provider, error) {
	s, err := readSettings(cfg)
	if err != nil {
		return nil, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: cfg.Name, Op: keystore.OpOpen}, err)
	}
	p, err := open(ctx, env, cfg.Name, s)
	if err != nil {
		return nil, keystore.NewError(keystore.Error{Class: keystore.Unavailable, Provider: cfg.Name, Op: keystore.OpOpen}, err)
	}
	if s.hello.ImportKey != "" {
		return importer{p}, nil
	}
	return p, nil
}

// open makes a provider of checked settings.
func open(ctx context.Context, env keystore.Env, name string, s settings) (*Provider, error) {
	p := &Provider{name: name, env: env, settings: s, second: make(chan struct{}, 1), selected: map[keystore.KeyRef]selection{}}
	if _, err := io.ReadFull(env.Rand, p.pins.mac[:]); err != nil {
		return nil, err
	}
	p.ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	return p, nil
}

// Wrap implements [keystore.Provider].
func (p *Provider) Wrap(ctx context.Context, req keystore.WrapRequest) (keystore.WrapResult, error) {
	fail := p.failer(keystore.OpWrap, req.Key)
	if err := p.begin(ctx); err != nil {
		return keystore.WrapResult{}, fail(err)
	}
	if err := req.Check(p.name); err != nil {
		return keystore.WrapResult{}, err
	}
	sel, err := p.selection(ctx, req.Key)
	// The version changes by a rotation, and the mechanism with it or with the
	// key's attributes: seldom, and never three times within one call.
	for range 3 {
		if err != nil {
			return keystore.WrapResult{}, fail(err)
		}
		var b blob.Blob
		var next selection
		if b, next, err = p.wrap(ctx, req, sel); err != nil {
			continue
		}
		if next != sel {
			sel = next
			p.remember(req.Key, sel)
			continue
		}
		data, err := b.Encode()
		if err != nil {
			return keystore.WrapResult{}, fail(&classified{class: keystore.Misconfigured, text: "the token answered with what does not fit a blob"})
		}
		return keystore.WrapResult{Blob: data, KeyVersion: versionOf(sel.id)}, nil
	}
	if err == nil {
		err = &classified{class: keystore.Unavailable, text: "the key changed three times during one call"}
	}
	return keystore.WrapResult{}, fail(err)
}

// wrap asks the helper to wrap under sel. It returns another selection, and no
// blob, if the token has one now.
func (p *Provider) wrap(ctx context.Context, req keystore.WrapRequest, sel selection) (blob.Blob, selection, error) {
	to := blob.Binding{Domain: domain, Key: req.Key, AAD: req.AAD}
	version := checked(req.Key, sel)
	next := sel
	seal := func(secret memsec.Secret, aad []byte) (wire.Answer, error) {
		ask := wire.Request{Op: wire.OpWrap, Mechanism: sel.mechanism, Ref: string(req.Key), ID: []byte(sel.id), AAD: aad}
		return p.do(ctx, ask, secret, nil)
	}
	changed := func(a wire.Answer) bool {
		if a.Status == wire.StatusChanged {
			next = selection{string(a.ID), a.Mechanism}
		}
		return a.Status == wire.StatusChanged
	}
	if !sel.mechanism.Bound() {
		a, err := seal(req.Secret, to.Full(sel.mechanism, version))
		if err != nil || changed(a) {
			return blob.Blob{}, next, err
		}
		return blob.Blob{Mechanism: sel.mechanism, KeyVersion: version, IV: a.IV, Wrapped: a.Wrapped}, next, nil
	}
	b, err := blob.Bind(p.env.Rand, sel.mechanism, to, req.Secret, func(oneTime memsec.Secret) (blob.Wrapped, error) {
		a, err := seal(oneTime, nil)
		if err == nil && changed(a) {
			err = errChanged
		}
		return blob.Wrapped{KeyVersion: version, Bytes: a.Wrapped}, err
	})
	if errors.Is(err, errChanged) {
		return blob.Blob{}, next, nil
	}
	return b, next, err
}

var errChanged = errors.New("another version or mechanism wraps now")

// Unwrap implements [keystore.Provider].
func (p *Provider) Unwrap(ctx context.Context, req keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
	fail := p.failer(keystore.OpUnwrap, req.Key)
	if err := p.begin(ctx); err != nil {
		return keystore.UnwrapResult{}, fail(err)
	}
	if err := req.Check(p.name); err != nil {
		return keystore.UnwrapResult{}, err
	}
	b, err := blob.Parse(req.Blob)
	var id string
	sound := false
	if err == nil {
		id, sound = readChecked(req.Key, b)
	}
	if !sound {
		// Of another key, or damaged. That the key is gone is the greater news.
		if _, err := p.selectKey(ctx, req.Key); err != nil {
			return keystore.UnwrapResult{}, fail(err)
		}
		return keystore.UnwrapResult{}, fail(blob.ErrDoesNotOpen)
	}
	to := blob.Binding{Domain: domain, Key: req.Key, AAD: req.AAD}
	ask := wire.Request{Op: wire.OpUnwrap, Mechanism: b.Mechanism, Ref: string(req.Key), ID: []byte(id), IV: b.IV, Wrapped: b.Wrapped}
	open := func(class memsec.Class) (memsec.Secret, error) {
		var secret memsec.Secret
		_, err := p.do(ctx, ask, memsec.Secret{}, func(payload []byte) error {
			var err error
			secret, err = memsec.Take(payload, class)
			return err
		})
		return secret, err
	}
	var secret memsec.Secret
	if b.Mechanism.Bound() {
		secret, err = b.Unbind(to, req.Class, func([]byte) (memsec.Secret, error) { return open(memsec.Hot) })
	} else {
		ask.AAD = to.Full(b.Mechanism, b.KeyVersion)
		secret, err = open(req.Class)
	}
	if err != nil {
		return keystore.UnwrapResult{}, fail(err)
	}
	return keystore.UnwrapResult{Secret: secret, KeyVersion: versionOf(id)}, nil
}

// Describe implements [keystore.Provider].
func (p *Provider) Describe(ctx context.Context, req keystore.DescribeRequest) (keystore.Description, error) {
	fail := p.failer(keystore.OpDescribe, req.Key)
	if err := p.begin(ctx); err != nil {
		return keystore.Description{}, fail(err)
	}
	if err := req.Check(p.name); err != nil {
		return keystore.Description{}, err
	}
	var k wire.Key
	_, err := p.do(ctx, wire.Request{Op: wire.OpDescribe, Ref: string(req.Key)}, memsec.Secret{}, func(payload []byte) error {
		var err error
		k, err = wire.DecodeKey(payload)
		return err
	})
	if err != nil {
		return keystore.Description{}, fail(err)
	}
	d := keystore.Description{
		Key: req.Key, State: keystore.StateDisabled, KeyVersion: keystore.KeyVersion(k.Versions[len(k.Versions)-1]),
		Kind: keystore.KindSymmetric, Protection: keystore.ProtectionSoftware, Mechanism: k.Mechanism,
	}
	if k.Enabled {
		d.State = keystore.StateEnabled
	}
	if k.Asymmetric {
		d.Kind = keystore.KindAsymmetric
	}
	if proc, err := p.helper(ctx); err == nil && proc.token.Hardware {
		d.Protection = keystore.ProtectionHSM
	}
	return d, nil
}

// Health implements [keystore.Provider]: the token is there, and its user is logged in.
func (p *Provider) Health(ctx context.Context, _ corr.ID) error {
	fail := p.failer(keystore.OpHealth, "")
	if err := p.begin(ctx); err != nil {
		return fail(err)
	}
	if _, err := p.do(ctx, wire.Request{Op: wire.OpHealth}, memsec.Secret{}, nil); err != nil {
		return fail(err)
	}
	return nil
}

func (p *Provider) begin(ctx context.Context) error {
	p.life.mu.Lock()
	closed := p.life.closed
	p.life.mu.Unlock()
	if closed {
		return errClosed
	}
	return ctx.Err()
}

// failer returns what makes the provider's errors of causes.
func (p *Provider) failer(op keystore.Op, key keystore.KeyRef) func(error) error {
	if len(key) > keystore.MaxKeyRef {
		key = key[:64] + "..."
	}
	return func(cause error) error {
		class := classOf(cause)
		if errors.Is(cause, blob.ErrDoesNotOpen) {
			class = keystore.Corrupt
		}
		return keystore.NewError(keystore.Error{Class: class, Provider: p.name, Key: key, Op: op}, cause)
	}
}

// selection returns what wrapped last under the key, or asks.
func (p *Provider) selection(ctx context.Context, key keystore.KeyRef) (selection, error) {
	p.mu.Lock()
	sel, known := p.selected[key]
	p.mu.Unlock()
	if known {
		return sel, nil
	}
	sel, err := p.selectKey(ctx, key)
	if err == nil {
		p.remember(key, sel)
	}
	return sel, err
}

func (p *Provider) remember(key keystore.KeyRef, sel selection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.selected) >= maxSelections {
		clear(p.selected)
	}
	p.selected[key] = sel
}

// selectKey asks which version of the key wraps now, and how.
func (p *Provider) selectKey(ctx context.Context, key keystore.KeyRef) (selection, error) {
	a, err := p.do(ctx, wire.Request{Op: wire.OpSelect, Ref: string(key)}, memsec.Secret{}, nil)
	return selection{string(a.ID), a.Mechanism}, err
}

// checked is the key version as a blob has it: the CKA_ID in hexadecimal, and a
// check over key reference, mechanism and id. It is no protection, the binding
// is. It tells a blob whose version was destroyed, which is a withdrawal, from
// one that was damaged or belongs to another key, which is not.
func checked(key keystore.KeyRef, sel selection) keystore.KeyVersion {
	version := versionOf(sel.id)
	sum := sha256.Sum256(blob.Binding{Domain: domain, Key: key}.Full(sel.mechanism, version))
	return version + "." + keystore.KeyVersion(hex.EncodeToString(sum[:8]))
}

// readChecked returns the CKA_ID of a blob of the key.
func readChecked(key keystore.KeyRef, b blob.Blob) (string, bool) {
	text, _, found := strings.Cut(string(b.KeyVersion), ".")
	id, err := hex.DecodeString(text)
	if !found || err != nil || len(id) == 0 || b.Mechanism == blob.Native {
		return "", false
	}
	return string(id), checked(key, selection{string(id), b.Mechanism}) == b.KeyVersion
}

func versionOf(id string) keystore.KeyVersion {
	return keystore.KeyVersion(hex.EncodeToString([]byte(id)))
}

// do asks the helper, with the secret as payload unless it is zero. use gets
// the payload of a good answer.
//
// A helper that is not to be trusted any more is replaced and asked once again,
// as a session that expired is renewed. An object that is not found is looked
// for by a helper of its own before that is believed (I1).
func (p *Provider) do(ctx context.Context, req wire.Request, secret memsec.Secret, use func([]byte) error) (wire.Answer, error) {
	for again := false; ; again = true {
		proc, err := p.helper(ctx)
		if err != nil {
			return wire.Answer{}, err
		}
		a, err := p.one(ctx, proc, req, secret, use)
		switch {
		case retire(a):
			p.bad(proc, errRetired)
			if !again {
				continue
			}
		case a.Status == wire.StatusNotFound:
			p.good()
			return p.secondOpinion(ctx, proc, req, secret, use)
		case a.Status == 0: // no answer
			ended := proc.ended()
			if ended != nil {
				p.bad(proc, ended)
			}
			// Another call found that the session was over; nothing was done here.
			if errors.Is(ended, errRetired) && ctx.Err() == nil && !again {
				continue
			}
		default:
			p.good()
		}
		return a, err
	}
}

// one asks one helper once.
func (p *Provider) one(ctx context.Context, proc *process, req wire.Request, secret memsec.Secret, use func([]byte) error) (wire.Answer, error) {
	select {
	case proc.workers <- struct{}{}:
	case <-proc.done:
		return wire.Answer{}, proc.ended()
	case <-ctx.Done():
		return wire.Answer{}, ctx.Err()
	}
	var answer wire.Answer
	fill := func(room []byte) error {
		return reveal.With(secret, func(b []byte) error { copy(room, b); return nil })
	}
	err := proc.call(ctx, req, secret.Len(), fill, func() { <-proc.workers }, func(a wire.Answer, payload []byte) error {
		answer = a
		if err := judge(a, payload); err != nil || a.Status != wire.StatusOK || use == nil {
			return err
		}
		return use(payload)
	})
	return answer, err
}

// secondOpinion repeats a request whose object was not found with a helper that
// has just started, found the token and logged in.
func (p *Provider) secondOpinion(ctx context.Context, first *process, req wire.Request, secret memsec.Secret, use func([]byte) error) (wire.Answer, error) {
	select {
	case p.second <- struct{}{}:
		defer func() { <-p.second }()
	case <-ctx.Done():
		return wire.Answer{}, ctx.Err()
	}
	proc, err := p.bringUp() //nolint:contextcheck // A log-in goes on when its caller gives up: one without an answer could not be repeated.
	if err != nil {
		// The token is not there, or does not let its user in: so what the first
		// helper found says nothing.
		p.bad(first, err)
		return wire.Answer{}, err
	}
	defer p.end(proc, errClosed)
	stop := context.AfterFunc(p.ctx, func() { proc.kill(errClosed) }) //nolint:contextcheck // Closing the provider ends this helper too.
	defer stop()
	a, err := p.one(ctx, proc, req, secret, use)
	if a.Status != wire.StatusNotFound {
		p.bad(first, errContradicted)
	}
	return a, err
}

// misconfiguredStart tells a helper that cannot be started from a machine that
// has no room for one at the moment.
func misconfiguredStart(err error) keystore.Class {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return keystore.Misconfigured
	}
	return keystore.Unavailable
}
