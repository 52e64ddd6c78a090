package jwt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Token is what a verified token proves.
type Token struct {
	IssuerUID auth.Issuer // of the registered issuer
	Subject   string      // value of its subject claim: 1 to MaxSubject bytes, printable
	NotAfter  time.Time   // from then on the token is refused: its exp and the issuer's skew
	ID        string      // its jti, for records; empty if it has none. Not checked for uniqueness
}

// Options are what a Verifier is made with. The zero value is usable.
type Options struct {
	Clock clock.Clock // nil: the machine's
	// CacheEntries is how many verified tokens are remembered. 0: DefaultCacheEntries.
	// Those of one tenant's issuers together take a quarter at most, and so do those of
	// one issuer of the cluster.
	CacheEntries int
}

// Verifier verifies tokens of the issuers that [Verifier.Replace] was told. Make
// one with New, and Close it.
type Verifier struct {
	clk     clock.Clock
	cache   *cache
	ctx     context.Context //nolint:containedctx // The life of the fetches, which is that of the Verifier: Replace starts them, Close ends it.
	stop    context.CancelFunc
	running sync.WaitGroup

	registered atomic.Pointer[registration]

	mu     sync.Mutex // one Replace at a time
	closed bool
}

// registration is what Replace was told last. It is immutable.
type registration struct {
	at    uint64 // index of the registry
	seq   uint64 // of Replace
	all   []*issuer
	byUID map[auth.Issuer]*issuer
	byURL map[string]map[string][]*issuer // by URL, then by audience
}

// issuer is a registered issuer and where its keys are.
type issuer struct {
	Issuer         // with defaults
	told   Issuer  // as Replace was told
	keys   *source // nil: broken
	broken error   // what is wrong with it. It is still chosen, so that its tokens are never those of another one
}

// New returns a Verifier of no issuers.
func New(o Options) *Verifier {
	v := &Verifier{clk: o.Clock}
	if v.clk == nil {
		v.clk = clock.System{}
	}
	if o.CacheEntries <= 0 {
		o.CacheEntries = DefaultCacheEntries
	}
	v.cache = newCache(o.CacheEntries)
	v.ctx, v.stop = context.WithCancel(context.Background())
	v.registered.Store(&registration{})
	return v
}

// Close ends the fetches and returns after the last one. Keys that are there
// count on for their time.
func (v *Verifier) Close() {
	v.mu.Lock()
	v.closed = true
	v.mu.Unlock()
	v.stop()
	v.running.Wait()
}

// At returns the at of the last Replace. A caller that serves by a state of the
// registry compares it with the index of that state's last change of issuers
// before it verifies: a token is then judged by no older issuers than the rest of
// the call.
func (v *Verifier) At() uint64 { return v.registered.Load().at }

// Replace makes issuers the registered ones, all at once. They are those of the
// registry at the index at; if later ones are there already, nothing is done, so
// that a slow caller cannot bring back what was taken away.
//
// An issuer that was there and says the same keeps its keys, its fetches and its
// remembered tokens; one whose URL, CAs and static keys stay keeps its keys (I7).
//
// An issuer that Check refuses is in force as one that accepts nothing, and so is a
// second one with a uid; the error names all of these by their path. The others
// are in force whatever the error. Nothing is waited for.
func (v *Verifier) Replace(at uint64, issuers []Issuer) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return errors.New("the verifier of tokens is closed")
	}
	old := v.registered.Load()
	if at < old.at {
		return nil
	}
	next := &registration{at: at, seq: old.seq + 1, byUID: map[auth.Issuer]*issuer{}, byURL: map[string]map[string][]*issuer{}}
	live := map[*source]bool{}
	var wrong []error
	for _, told := range issuers {
		is := next.byUID[told.UID]
		if is != nil {
			told = told.clone()
			is = &issuer{Issuer: told.withDefaults(), told: told, broken: errors.New("another issuer has the same uid")}
		} else {
			is = v.succeed(old.byUID[told.UID], told)
			next.byUID[told.UID] = is
		}
		if is.broken != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", is.Path, is.broken))
		}
		if is.keys != nil {
			live[is.keys] = true
		}
		next.add(is)
	}
	v.registered.Store(next)
	for _, is := range old.byUID {
		if is.keys != nil && !live[is.keys] {
			is.keys.close()
		}
	}
	v.cache.sweep(live)
	return errors.Join(wrong...)
}

// succeed returns the issuer that told describes, with what it can keep of before,
// which is nil if there was none.
func (v *Verifier) succeed(before *issuer, told Issuer) *issuer {
	if before != nil && before.told.equal(told) {
		return before
	}
	told = told.clone()
	is := &issuer{Issuer: told.withDefaults(), told: told}
	if is.broken = told.Check(); is.broken != nil {
		return is
	}
	if before != nil && before.keys != nil && before.told.sameKeys(told) {
		is.keys = before.keys
		return is
	}
	is.keys, is.broken = start(v.ctx, &v.running, v.clk, told)
	return is
}

func (r *registration) add(is *issuer) {
	r.all = append(r.all, is)
	byAudience := r.byURL[is.URL]
	if byAudience == nil {
		byAudience = map[string][]*issuer{}
		r.byURL[is.URL] = byAudience
	}
	for _, a := range is.Audiences {
		byAudience[a] = append(byAudience[a], is)
	}
}

// choose returns the one issuer that tokens with that iss and those audiences are
// of, and the first audience that it has. What is registered decides alone, never
// what keys are at hand.
func (r *registration) choose(iss string, aud []string) (*issuer, string, error) {
	byAudience := r.byURL[iss]
	if byAudience == nil {
		return nil, "", refuse("no issuer is registered with the URL that the token names",
			errs.Hint("compare the token's iss with the URL of the registered issuers: they must be the same text, a slash at the end included"))
	}
	var one *issuer
	var fits string
	for _, a := range aud {
		for _, is := range byAudience[a] {
			if one != nil && one != is {
				return nil, "", refuse("the token is for audiences of two registered issuers with the same URL",
					errs.Hint("ask for a token with one audience, of one of them; if they have one in common, register one of them with another"))
			}
			one, fits = is, a
		}
	}
	if one == nil {
		return nil, "", refuse("the token is for none of the audiences that its issuer is registered with",
			errs.Hint("ask the issuer for a token for this cluster; `aud` of the token says what it is for"))
	}
	return one, fits, nil
}

// Verify returns what token proves. The error is errs.Unauthenticated, with what
// is wrong with it and what to do; errs.Unavailable if the keys of its issuer
// cannot be had; errs.Throttled if too many wait for these; or what ended ctx.
//
// A token that was verified before costs a hash and a lookup. A new one costs the
// check of a signature, and, if its key is not known, a wait for at most one fetch
// of its issuer.
func (v *Verifier) Verify(ctx context.Context, token string) (Token, error) {
	if len(token) > MaxToken {
		_, err := parse(token)
		return Token{}, err
	}
	now, reg := v.clk.Now(), v.registered.Load()
	d := digestOf(token)
	if t, ok := v.cache.get(d, reg, now); ok {
		return t, nil
	}
	e, err := v.verify(ctx, reg, token)
	if err != nil {
		return Token{}, err
	}
	e.digest, e.seq = d, reg.seq
	v.cache.put(e)
	return e.token, nil
}

// verify does all that Verify says, without the cache. What costs little comes
// first, so that a token which is old, or for somebody else, has no keys fetched.
func (v *Verifier) verify(ctx context.Context, reg *registration, token string) (*remembered, error) {
	u, err := parse(token)
	if err != nil {
		return nil, err
	}
	is, audience, err := reg.choose(u.iss, u.aud)
	if err != nil {
		return nil, err
	}
	if is.broken != nil {
		return nil, refuse("what is registered of the token's issuer cannot be used", errs.Hint("have it registered anew; its status says what is wrong"), is.cause(is.broken))
	}
	if err := is.inTime(u, v.clk.Now()); err != nil {
		return nil, err
	}
	subject, ok := u.claims[is.SubjectClaim].(string)
	if !ok || !printable(subject, MaxSubject) {
		return nil, refuse(fmt.Sprintf("the token's subject is not a text of 1 to %d bytes without control characters", MaxSubject),
			errs.Hint("ask the issuer for a token with the claim that it is registered with for the subject; `sub`, if nothing else is said"), is.cause(nil))
	}
	k, err := is.key(ctx, v.clk, u)
	if err != nil {
		return nil, err
	}
	if err := is.signed(ctx, u, k, audience, token); err != nil {
		return nil, err
	}
	t := Token{IssuerUID: is.UID, Subject: strings.Clone(subject), NotAfter: u.exp.Add(is.Skew), ID: strings.Clone(u.id)}
	since := u.nbf
	if u.iat.After(since) {
		since = u.iat
	}
	return &remembered{token: t, from: is, owner: ownerOf(is.Path), key: k, aud: keptAuds(u.aud), since: since.Add(-is.Skew)}, nil
}

// inTime judges exp, nbf and iat. The library's own judgement is not used: its
// leeway is fixed, five minutes for nbf and none for exp.
func (is *issuer) inTime(u *unverified, now time.Time) error {
	ago := func(d time.Duration) string { return max(d.Round(time.Second), time.Second).String() }
	switch {
	case !now.Before(u.exp.Add(is.Skew)):
		return refuse("the token expired "+ago(now.Sub(u.exp))+" ago by the node's clock", errs.Hint("ask the issuer for a new one"))
	case now.Before(u.nbf.Add(-is.Skew)), now.Before(u.iat.Add(-is.Skew)):
		begin := u.nbf
		if u.iat.After(begin) {
			begin = u.iat
		}
		return refuse("the token is valid only in "+ago(begin.Sub(now))+" by the node's clock", errs.Hint("compare the clocks of the issuer and of the node"))
	}
	begin := u.iat
	if begin.IsZero() {
		begin = u.nbf
	}
	if begin.IsZero() {
		begin = now // not said: what is left must not be more than a whole life
	}
	switch life := u.exp.Sub(begin); {
	case life <= 0:
		return refuse("the token ends before it begins", errs.Hint("compare iat, nbf and exp"))
	case life > is.Lifetime:
		return refuse("the token lives longer than the "+is.Lifetime.String()+" that its issuer is registered with",
			errs.Hint("ask the issuer for a shorter one; of Kubernetes, mount a projected token with an audience of its own"))
	}
	return nil
}

// key returns the key that u must be signed with, and has the issuer's keys
// fetched if it is not among them.
func (is *issuer) key(ctx context.Context, clk clock.Clock, u *unverified) (*key, error) {
	for asked := false; ; asked = true {
		set := is.keys.keys(clk.Now())
		if set != nil {
			k, found := set.find(u.kid, u.alg)
			switch found {
			case foundOne:
				return k, nil
			case foundSeveral:
				return nil, refuse("two keys of its issuer fit the token", errs.Hint("let the issuer name the key of each token (kid), and each key differently"), is.cause(nil))
			case foundNone:
			}
		}
		switch {
		case !asked:
			if err := is.keys.ask(ctx); errors.Is(err, errTooMany) {
				return nil, errs.New(errs.Throttled, "too many calls wait for the keys of the token's issuer", errs.Hint("try again in %v", FetchEvery), is.cause(nil))
			} else if err != nil {
				return nil, err
			}
		case set == nil:
			return nil, is.noKeys()
		case set.static:
			return nil, refuse("the token is signed with none of the keys that its issuer is registered with", errs.Hint("if the issuer has new keys, register them"), is.cause(nil))
		default:
			return nil, is.unknownKey()
		}
	}
}

func (is *issuer) noKeys() error {
	why := "they were not fetched yet"
	cause := is.keys.lastFailure()
	if cause != nil {
		why = "its provider failed: " + cause.Error()
	}
	return errs.New(errs.Unavailable, "the keys of the token's issuer cannot be had: "+why,
		errs.Hint("try another node, or again in %v; a client certificate needs no provider", FetchEvery), is.cause(cause))
}

func (is *issuer) unknownKey() error {
	hint := errs.Hint("if the issuer has a new key, try again in %v; else the token is not its", FetchEvery)
	if cause := is.keys.lastFailure(); cause != nil {
		return refuse("the token is signed with none of the known keys of its issuer, and its provider failed when it was asked for new ones: "+cause.Error(), hint, is.cause(cause))
	}
	return refuse("the token is signed with none of the keys that its issuer publishes", hint, is.cause(nil))
}

// cause keeps in an error, for the node's own records, which issuer it is about.
// The caller is not told: until a token is verified it is a stranger's, and the
// path of an issuer may be the name of a tenant.
func (is *issuer) cause(err error) errs.Option {
	if err == nil {
		return errs.Cause(fmt.Errorf("issuer %s", is.Path))
	}
	return errs.Cause(fmt.Errorf("issuer %s: %w", is.Path, err))
}

// signed has the library verify the token with k, and its issuer and audience once more.
func (is *issuer) signed(ctx context.Context, u *unverified, k *key, audience, token string) error {
	with := &oneKey{key: k, token: u}
	_, err := oidc.NewVerifier(is.URL, with, &oidc.Config{
		ClientID:             audience,
		SupportedSigningAlgs: []string{string(u.alg)},
		SkipExpiryCheck:      true, // see inTime
	}).Verify(ctx, token)
	switch {
	case err == nil:
		return nil
	case with.refused:
		return refuse("the signature of the token does not verify with its issuer's key", errs.Hint("send the token as the issuer gave it"), is.cause(nil))
	}
	// The text of err quotes the token.
	return refuse("the token's claims do not have the form of an OpenID Connect token", errs.Hint("ask the issuer for an ID token, or for an access token in its form"), is.cause(nil))
}

// Status is how things stand with one issuer.
type Status struct {
	UID     auth.Issuer
	Path    string
	Keys    int       // that count now
	Fetched time.Time // when; zero: static, or never
	Fetches uint64    // begun since the issuer was registered or its URL, CAs or keys changed
	Problem string    // of the registration, or of the last fetch; empty: none. Without anything that a provider sent
}

// Status returns how things stand with each issuer, in the order of their paths.
func (v *Verifier) Status() []Status {
	now := v.clk.Now()
	var all []Status
	for _, is := range v.registered.Load().all {
		s := Status{UID: is.UID, Path: is.Path}
		if is.broken != nil {
			s.Problem = is.broken.Error()
		} else {
			is.keys.status(now, &s)
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Path, b.Path) })
	return all
}
