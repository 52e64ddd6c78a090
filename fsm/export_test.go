package fsm

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-memdb"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// Fork returns a machine that has the state of m and goes on by itself. It costs a
// pointer, so that a test of many commands in one state makes that state once.
func (m *Machine) Fork() *Machine {
	f, v := New(m.opts), m.View()
	f.view.Store(&View{state: v.state, meta: v.meta, next: make(chan struct{})})
	return f
}

// compared is a row whose content can be compared with that of another one.
type compared interface{ equal(other any) bool }

func (r *row[T]) equal(other any) bool {
	o, ok := other.(*row[T])
	if !ok {
		return false
	}
	if m, ok := any(r.obj).(proto.Message); ok {
		n, _ := any(o.obj).(proto.Message)
		return proto.Equal(m, n)
	}
	return reflect.DeepEqual(r.obj, o.obj)
}

func (r *row[T]) String() string { return fmt.Sprintf("%T{%v}", r.obj, r.obj) }

// Differs says where two states differ in anything that they hold in memory: in a
// field of meta, or in the rows that an index of a table has, in their order. What is
// derived is not in [View.Digest]; it is compared here. "": in nothing.
func (v *View) Differs(other *View) string {
	// A view's channel and its cache of names are no state. A new field of View has
	// to be looked at here.
	for f := range reflect.TypeFor[View]().Fields() {
		if !slices.Contains([]string{"state", "meta", "next", "names"}, f.Name) {
			return "the field " + f.Name + " of View is compared with nothing"
		}
	}
	is, was := v.meta, other.meta
	if v.cluster.GetFormatVersion() < FormatAuthority {
		is.authorityAt = was.authorityAt // see [View.AuthorityAt]
	}
	same := cmp.Options{cmp.AllowUnexported(meta{}), cmp.Comparer(equal[*fsmpb.Cluster]), cmp.Comparer(equal[*fsmpb.Issuer])}
	if d := cmp.Diff(is, was, same); d != "" {
		return d
	}
	for name, table := range v.db.DBSchema().Tables {
		for index := range table.Indexes {
			a, err := v.txn.Get(name, index)
			must(err)
			b, err := other.txn.Get(name, index)
			must(err)
			if d := differ(a, b); d != "" {
				return fmt.Sprintf("table %s by %s: %s", name, index, d)
			}
		}
	}
	return ""
}

func equal[T proto.Message](a, b T) bool { return proto.Equal(a, b) }

func differ(a, b memdb.ResultIterator) string {
	for n := 0; ; n++ {
		is, was := a.Next(), b.Next()
		if is == nil && was == nil {
			return ""
		}
		if r, ok := is.(compared); !ok || !r.equal(was) {
			return fmt.Sprintf("row %d: %v and %v", n, is, was)
		}
	}
}
