package fsm

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// filled returns a message of the type of m with every field set.
func filled[T proto.Message](m T) T {
	r := m.ProtoReflect()
	fields := r.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.IsList() {
			l := r.Mutable(fd).List()
			if fd.Message() != nil {
				l.AppendMutable()
			} else {
				l.Append(some(fd))
			}
			continue
		}
		if fd.Message() != nil {
			r.Mutable(fd)
			continue
		}
		r.Set(fd, some(fd))
	}
	return m
}

func some(fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(7)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(7)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(7)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("x")
	default:
		return protoreflect.ValueOfBytes([]byte("x"))
	}
}

func TestShallowCopiesAreComplete(t *testing.T) {
	if m := filled(&fsmpb.Tenant{}); !proto.Equal(copyTenant(m), m) {
		t.Errorf("tenant: %v", copyTenant(m))
	}
	if m := filled(&fsmpb.Service{}); !proto.Equal(copyService(m), m) {
		t.Errorf("service: %v", copyService(m))
	}
	if m := filled(&fsmpb.Member{}); !proto.Equal(copyMember(m), m) {
		t.Errorf("member: %v", copyMember(m))
	}
	if m := filled(&fsmpb.Cluster{}); !proto.Equal(copyCluster(m), m) {
		t.Errorf("cluster: %v", copyCluster(m))
	}
}

func TestAVersionSurvivesTheWayThroughHierarchy(t *testing.T) {
	v := filled(&fsmpb.Version{})
	v.Uid = []byte("sixteen bytes...")
	v.Number = 1
	was := toChain([]*fsmpb.Version{v}, 1, false, 0)
	is := toChain([]*fsmpb.Version{v}, 1, false, 0)
	is.Versions[0].State = hierarchy.Deprecated
	tx := &tx{meta: meta{index: 9, cluster: &fsmpb.Cluster{FormatVersion: FormatLeases}}}
	want := proto.CloneOf(v)
	want.State, want.ModIndex, want.GateIndex = fsmpb.VersionState_VERSION_STATE_DEPRECATED, 9, 9
	if got := tx.mergeChain([]*fsmpb.Version{v}, was, is, nil)[0]; !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	is = was
	if got := tx.mergeChain([]*fsmpb.Version{v}, was, is, nil)[0]; got != v {
		t.Error("a version that did not change was copied")
	}
}

// TestEveryMessageHasACanonicalEncoding walks every message that is in the
// state, and every field of it changes the encoding.
func TestEveryMessageHasACanonicalEncoding(t *testing.T) {
	for _, m := range []proto.Message{
		&fsmpb.Cluster{}, &fsmpb.Tenant{}, &fsmpb.Service{}, &fsmpb.Resource{}, &fsmpb.Secret{}, &fsmpb.Member{}, &fsmpb.JoinToken{},
		&fsmpb.Request{}, &fsmpb.UsedNonce{}, &fsmpb.Revocation{}, &fsmpb.SnapshotHeader{}, &fsmpb.Version{}, &fsmpb.Binding{}, &fsmpb.Hold{}, &fsmpb.Person{},
		&fsmpb.PublicKey{}, &fsmpb.IntentRule{}, &fsmpb.Settings{}, &fsmpb.Principal{}, &fsmpb.Issuer{}, &fsmpb.X509Issuer{}, &fsmpb.JWTIssuer{}, &fsmpb.RoleBinding{}, &fsmpb.BindingKey{}, &fsmpb.SignedIntent{},
	} {
		full := filled(m).ProtoReflect()
		fields := full.Descriptor().Fields()
		for i := range fields.Len() {
			if fields.Get(i).ContainingOneof() != nil {
				full.Mutable(fields.Get(i)) // in place of the others
			}
			whole := string(appendCanonical(nil, full))
			less := proto.Clone(m).ProtoReflect()
			less.Clear(fields.Get(i))
			if string(appendCanonical(nil, less)) == whole {
				t.Errorf("%s is not in the canonical encoding", fields.Get(i).FullName())
			}
		}
	}
	a := &fsmpb.Result{Reason: "DENIED", Message: "one release", Hint: "says"}
	b := &fsmpb.Result{Reason: "DENIED", Message: "another", Hint: "writes"}
	if sumOf(a) != sumOf(b) {
		t.Error("the text of a refusal is in the canonical encoding")
	}
}

func TestI4_AReaderThatWritesIsStopped(t *testing.T) {
	if !invariants.Enabled {
		return // nothing to hold: the check exists only in builds with the tag invariants
	}
	s := emptyState()
	w := &tx{txn: s.db.Txn(true)}
	put(w, tableMembers, &fsmpb.Member{Id: "m", Name: "honest"})
	got, _ := lookup[*fsmpb.Member](w.txn, tableMembers, indexID, []byte("m"))
	got.Name = "changed"
	defer func() {
		if recover() == nil {
			t.Error("an object was changed by a reader and nobody noticed")
		}
	}()
	lookup[*fsmpb.Member](w.txn, tableMembers, indexID, []byte("m"))
}
