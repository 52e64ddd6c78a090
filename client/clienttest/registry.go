package clienttest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// registry is the state of the cluster, shared by all nodes.
type registry struct {
	mu        sync.Mutex
	index     uint64
	tenants   map[string]*kryptonv1.Tenant
	services  map[string]*kryptonv1.Service
	resources map[string]*kryptonv1.Resource
	keys      map[string][]byte // by uid of the version
	done      map[string]result // by request id
	ops       map[string]*kryptonv1.Operation
	removed   map[string]bool
	revoked   map[string]*kryptonv1.Revocation // by serial number
	voters    map[string]bool
	approvals map[string]*kryptonv1.Approval
	bindings  map[string]*kryptonv1.RoleBinding
}

// result is what a request id did (I1).
type result struct {
	caller string
	digest [32]byte
	resp   any
}

func newRegistry() *registry {
	return &registry{
		index: 1, tenants: map[string]*kryptonv1.Tenant{}, services: map[string]*kryptonv1.Service{},
		resources: map[string]*kryptonv1.Resource{}, keys: map[string][]byte{}, done: map[string]result{},
		ops: map[string]*kryptonv1.Operation{}, removed: map[string]bool{}, revoked: map[string]*kryptonv1.Revocation{}, voters: map[string]bool{"n1": true, "n2": true, "n3": true},
		approvals: map[string]*kryptonv1.Approval{}, bindings: map[string]*kryptonv1.RoleBinding{},
	}
}

// bind gives a person a role with one key, SubjectPublicKeyInfo in DER.
func (r *registry) bind(role, name string, key []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index++
	b := &kryptonv1.RoleBinding{
		Name: "roleBindings/" + name, Uid: uid(), Etag: r.etag(), Role: roleNumber(role), Member: name, Issuer: "issuers/builtin", Subject: role + "/" + name,
		Keys: []*kryptonv1.AuthorityKey{{PublicKey: key, Tls: true, Sign: role == "governor" || role == "custodian"}}, CreateTime: now(),
	}
	r.bindings[b.GetName()] = b
}

func (r *registry) indexNow() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.index
}

// once runs a call under the registry's lock; one with a request id acts once.
func (r *registry) once(who, method string, req proto.Message, act func() (any, error)) (any, error) {
	if strings.Contains(method, ".Seal/") || strings.HasSuffix(method, "/WaitOperation") {
		return act() // has its own state, and may wait
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	fd := req.ProtoReflect().Descriptor().Fields().ByName("request_id")
	if fd == nil {
		return act()
	}
	id := req.ProtoReflect().Get(fd).String()
	if id == "" {
		return nil, errs.New(errs.InvalidArgument, "a mutation needs a request id", errs.Hint("make a UUID"))
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(append([]byte(method), raw...))
	if old, ok := r.done[id]; ok {
		if old.digest != digest || old.caller != who {
			return nil, errs.New(errs.RequestReplayed, "the request id was used for a different request", errs.Hint("make a new one"))
		}
		return old.resp, nil
	}
	resp, err := act()
	if err != nil {
		return nil, err
	}
	if v := req.ProtoReflect().Descriptor().Fields().ByName("validate_only"); v != nil && req.ProtoReflect().Get(v).Bool() {
		return resp, nil
	}
	r.index++
	r.done[id] = result{caller: who, digest: digest, resp: resp}
	op := &kryptonv1.Operation{Name: "operations/" + id, Done: true, CreateTime: now(), Index: r.index}
	if m, ok := resp.(interface{ GetName() string }); ok {
		op.Target = m.GetName()
	}
	r.ops[op.GetName()] = op
	return resp, nil
}

func now() *timestamppb.Timestamp { return timestamppb.New(clock.System{}.Now().UTC()) }

func later(d time.Duration) *timestamppb.Timestamp {
	return timestamppb.New(clock.System{}.Now().Add(d).UTC())
}

func uid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func (r *registry) etag() string { return fmt.Sprintf("%q", fmt.Sprint(r.index)) }

func (r *registry) addService(tenant, service string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := "tenants/" + tenant
	if r.tenants[t] == nil {
		if _, err := r.newTenant(tenant, &kryptonv1.Binding{Keystore: "local", Key: "k1"}, false); err != nil {
			return err
		}
	}
	if r.services[t+"/services/"+service] != nil {
		return nil
	}
	_, err := r.newService(t, service, false)
	return err
}

func validID(id string) error {
	ok := id != "" && len(id) <= 63 && id[0] >= 'a' && id[0] <= 'z' && id[len(id)-1] != '-'
	for _, c := range id {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return errs.New(errs.InvalidArgument, "name has a character other than a-z, 0-9 and '-'", errs.Hint("choose another one"))
	}
	return nil
}

func (r *registry) newTenant(id string, b *kryptonv1.Binding, dry bool) (*kryptonv1.Tenant, error) {
	if err := validID(id); err != nil {
		return nil, err
	}
	name := "tenants/" + id
	if r.tenants[name] != nil {
		return nil, errs.New(errs.AlreadyExists, "a tenant of this name exists")
	}
	if b.GetKeystore() == "" {
		return nil, errs.New(errs.InvalidArgument, "binding names no keystore")
	}
	t := &kryptonv1.Tenant{
		Name: name, Uid: uid(), Etag: r.etag(), State: kryptonv1.ObjectState_OBJECT_STATE_ACTIVE, CreateTime: now(),
		Binding: &kryptonv1.Binding{Keystore: b.GetKeystore(), Key: b.GetKey(), KeyVersion: "1"},
	}
	t.Versions = r.addVersion(nil, name, "", dry)
	t.PrimaryVersion = 1
	if !dry {
		r.tenants[name] = t
	}
	return clone(t), nil
}

func (r *registry) newService(parent, id string, dry bool) (*kryptonv1.Service, error) {
	if err := validID(id); err != nil {
		return nil, err
	}
	t, err := r.tenant(parent)
	if err != nil {
		return nil, err
	}
	name := parent + "/services/" + id
	if r.services[name] != nil {
		return nil, errs.New(errs.AlreadyExists, "a service of this name exists")
	}
	s := &kryptonv1.Service{
		Name: name, Uid: uid(), Etag: r.etag(), State: kryptonv1.ObjectState_OBJECT_STATE_ACTIVE, CreateTime: now(),
	}
	s.Versions = r.addVersion(nil, name, fmt.Sprintf("%s/versions/%d", parent, t.GetPrimaryVersion()), dry)
	s.PrimaryVersion = 1
	if !dry {
		r.services[name] = s
	}
	return clone(s), nil
}

// addVersion appends a version and makes it primary.
func (r *registry) addVersion(vs []*kryptonv1.KeyVersion, name, parent string, dry bool) []*kryptonv1.KeyVersion {
	for _, v := range vs {
		if v.GetPrimary() {
			v.Primary, v.RollbackUntil = false, later(24*time.Hour)
		}
	}
	n := uint32(len(vs) + 1)
	v := &kryptonv1.KeyVersion{
		Name: fmt.Sprintf("%s/versions/%d", name, n), Uid: uid(), Etag: r.etag(), Number: n, Primary: true,
		State: kryptonv1.VersionState_VERSION_STATE_ACTIVE, CreateTime: now(), Parent: parent,
	}
	if !dry {
		key := make([]byte, 32)
		_, _ = rand.Read(key) // never fails
		r.keys[v.GetUid()] = key
	}
	return append(vs, v)
}

func (r *registry) tenant(name string) (*kryptonv1.Tenant, error) {
	if t := r.tenants[name]; t != nil {
		return t, nil
	}
	return nil, errs.New(errs.NotFound, "no such tenant", errs.Hint("list them with: krypton tenant list"))
}

func (r *registry) service(name string) (*kryptonv1.Service, error) {
	if s := r.services[name]; s != nil {
		return s, nil
	}
	return nil, errs.New(errs.NotFound, "no such service", errs.Hint("list them with: krypton service list"))
}

func checkEtag(have, want string) error {
	if want != "" && have != want {
		return errs.New(errs.StaleEtag, "the object changed since it was read", errs.Hint("read it again"))
	}
	return nil
}

func clone[M proto.Message](m M) M { return proto.Clone(m).(M) }

func sortedNames[V any](m map[string]V, prefix string) []string {
	var out []string
	for _, n := range slices.Sorted(maps.Keys(m)) {
		if strings.HasPrefix(n, prefix) {
			out = append(out, n)
		}
	}
	return out
}

// page cuts names to what a list request asks for; the token is the last name.
func page(names []string, size uint32, token string) (out []string, next string) {
	if size == 0 {
		size = 100
	}
	for _, n := range names {
		if n <= token {
			continue
		}
		if len(out) == int(min(size, 1000)) {
			return out, out[len(out)-1]
		}
		out = append(out, n)
	}
	return out, ""
}

func roleOf(ctx context.Context) (role string, rest string) {
	c, _ := ctx.Value(callerKey{}).(caller)
	role, rest, _ = strings.Cut(c.name, "/")
	return role, rest
}

// govern refuses everyone but governors.
func govern(ctx context.Context) error {
	if role, _ := roleOf(ctx); role != "governor" {
		return errs.New(errs.Denied, "a "+role+" may not do this", errs.Hint("ask a governor"))
	}
	return nil
}
