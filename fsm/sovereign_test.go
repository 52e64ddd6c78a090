package fsm_test

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
)

// unsigned are the fields that people do not sign: what Apply makes, and the etag
// and create, which only ever refuse.
var unsigned = map[protoreflect.FullName]bool{
	"krypton.fsm.v1.Issuer.uid": true, "krypton.fsm.v1.Issuer.strict_expiry": true, "krypton.fsm.v1.RoleBinding.strict_expiry": true, "krypton.fsm.v1.Issuer.create_time_ms": true, "krypton.fsm.v1.Issuer.mod_index": true, "krypton.fsm.v1.Issuer.authorized_by": true,
	"krypton.fsm.v1.RoleBinding.uid": true, "krypton.fsm.v1.RoleBinding.create_time_ms": true, "krypton.fsm.v1.RoleBinding.mod_index": true,
	"krypton.fsm.v1.RoleBinding.authorized_by": true, "krypton.fsm.v1.RoleBinding.every_tenant": true, // no command sets it
	"krypton.fsm.v1.Policy.create_time_ms": true, "krypton.fsm.v1.Policy.mod_index": true, "krypton.fsm.v1.Policy.authorized_by": true,
	"krypton.fsm.v1.PutPolicy.etag": true, "krypton.fsm.v1.PutPolicy.create": true, "krypton.fsm.v1.PutPolicy.policy_index": true, "krypton.fsm.v1.RemovePolicy.etag": true,
	"krypton.fsm.v1.Incarnation.time_ms": true, "krypton.fsm.v1.Incarnation.mod_index": true, "krypton.fsm.v1.Incarnation.authorized_by": true,
	// What the node says of itself, as it may change it afterwards by itself; its id is that of the incarnation.
	"krypton.fsm.v1.Member.id": true, "krypton.fsm.v1.Member.name": true, "krypton.fsm.v1.Member.peer_address": true, "krypton.fsm.v1.Member.grpc_address": true,
	"krypton.fsm.v1.Member.rest_address": true, "krypton.fsm.v1.Member.region": true, "krypton.fsm.v1.Member.zone": true, "krypton.fsm.v1.Member.voter": true, "krypton.fsm.v1.Member.removed": true,
	"krypton.fsm.v1.Member.create_time_ms": true, "krypton.fsm.v1.Member.mod_index": true, "krypton.fsm.v1.Member.version": true, "krypton.fsm.v1.Member.max_format": true, "krypton.fsm.v1.Member.purged": true,
	// Only Apply sets it, of the issuer builtin.
	"krypton.fsm.v1.X509Issuer.retire_times_ms": true,
	"krypton.fsm.v1.PutIssuer.etag":             true, "krypton.fsm.v1.PutIssuer.create": true, "krypton.fsm.v1.RemoveIssuer.etag": true, "krypton.fsm.v1.SetTenantGovernors.etag": true,
}

// TestEveryFieldThatGivesPowerIsSigned changes one field after the other, however
// deep, of the commands about authority: what people sign is another request then.
// A field that is added later fails here until it is signed.
func TestEveryFieldThatGivesPowerIsSigned(t *testing.T) {
	w := acme(t)
	full := map[string]*fsmpb.Command{
		"x509 issuer": putIssuer(x509Issuer("corp")), "jwt issuer": putIssuer(jwtIssuer("idp")), "tenant's issuer": putIssuer(w.ownIssuer("acme", "k8s")),
		"remove issuer": removeIssuer("acme", "k8s"), "bind": bind(bindingFor("operator", "olga")), "bind workload": bind(w.workload("acme", "app")),
		"governors": w.setGovernors("acme", w.uid(), w.uid()),
		"policy":    w.putPolicy("acme", "p", "text"), "remove policy": removePolicy("acme", "p"),
		"recovery": w.recovery(quorumLost, 0),
	}
	for name, cmd := range full {
		_, req, ok := fsm.SovereignRequest(cmd)
		if !ok {
			t.Fatalf("%s is no sovereign act", name)
		}
		seen := map[intent.Digest]string{req.Digest(): "the request itself"}
		body := cmd.ProtoReflect()
		fd := body.WhichOneof(body.Descriptor().Oneofs().ByName("body"))
		edits(body.Get(fd).Message(), func(field string) {
			_, req, ok := fsm.SovereignRequest(proto.CloneOf(cmd))
			if !ok {
				t.Errorf("%s without %s is no sovereign act", name, field)
				return
			}
			if twin, twice := seen[req.Digest()]; twice {
				t.Errorf("%s: with another %s it is signed like %s", name, field, twin)
			}
			seen[req.Digest()] = field
		})
	}
}

// edits calls f with every field of m changed in place, one at a time.
func edits(m protoreflect.Message, f func(field string)) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		name := string(fd.FullName())
		if unsigned[fd.FullName()] || fd.ContainingOneof() != nil && !m.Has(fd) {
			continue
		}
		was := m.Get(fd)
		switch {
		case fd.IsList():
			l := m.Mutable(fd).List()
			for j := range l.Len() {
				if fd.Message() != nil {
					edits(l.Get(j).Message(), f)
					continue
				}
				old := l.Get(j)
				l.Set(j, other(fd, old))
				f(name)
				l.Set(j, old)
			}
			n := l.Len()
			l.Append(l.NewElement())
			f(name + " and one more")
			l.Truncate(n)
		case fd.Message() != nil:
			edits(m.Mutable(fd).Message(), f)
		default:
			m.Set(fd, other(fd, was))
			f(name)
			m.Set(fd, was)
		}
	}
}

// other returns another value of a field.
func other(fd protoreflect.FieldDescriptor, v protoreflect.Value) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(!v.Bool())
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(v.Enum() + 1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(v.Int() + 1)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(v.Uint() + 1)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(v.Uint()) + 1)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(v.String() + "x")
	default:
		return protoreflect.ValueOfBytes(append([]byte("x"), v.Bytes()...))
	}
}

// TestUnbindingIsSignedForOneBinding: for its uid, so not for the next of its name.
func TestUnbindingIsSignedForOneBinding(t *testing.T) {
	b := bindingFor("operator", "olga")
	b.Uid = make([]byte, 16)
	seen := map[intent.Digest]string{fsm.UnbindRequest(b).Digest(): "itself"}
	for field, change := range map[string]func(*fsmpb.RoleBinding){
		"id": func(b *fsmpb.RoleBinding) { b.Id = "x" }, "tenant": func(b *fsmpb.RoleBinding) { b.Tenant = "x" },
		"uid": func(b *fsmpb.RoleBinding) { b.Uid = []byte("x") }, "act": func(b *fsmpb.RoleBinding) { b.Role = "governor" },
	} {
		c := proto.CloneOf(b)
		change(c)
		d := fsm.UnbindRequest(c).Digest()
		if twin, twice := seen[d]; twice {
			t.Errorf("another %s is signed like %s", field, twin)
		}
		seen[d] = field
	}
}
