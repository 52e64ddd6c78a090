package client

import (
	"encoding/hex"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// kind is what a method may do, which decides how long an attempt may take and
// whether it can be sent again. Zero is invalid.
type kind int

const (
	kindUnspecified kind = iota
	kindData             // a data-key operation: quick, changes nothing
	kindRead             // reads state, changes nothing
	kindWait             // reads state once something has happened
	kindMutation         // changes state, once per request id
	kindOnce             // as kindMutation, and only the first answer has what was made
	kindUnsafe           // changes state and has no request id
	kindEnd
)

// safe lists the methods that change nothing. A method that is neither here nor
// has a request id is unsafe: a new method of the API is sent once until
// somebody has thought about it. TestEveryMethodHasAKind walks the API.
//
//nolint:gochecknoglobals // Immutable table.
var safe = map[string]kind{
	"/krypton.v1.Crypto/GenerateDataKey": kindData,
	"/krypton.v1.Crypto/UnwrapDataKey":   kindData,
	"/krypton.v1.Crypto/RewrapDataKey":   kindData,
	"/krypton.v1.Crypto/Encrypt":         kindData,
	"/krypton.v1.Crypto/Decrypt":         kindData,

	"/krypton.v1.Tenants/GetTenant":         kindRead,
	"/krypton.v1.Tenants/ListTenants":       kindRead,
	"/krypton.v1.Services/GetService":       kindRead,
	"/krypton.v1.Services/ListServices":     kindRead,
	"/krypton.v1.Services/GetVersion":       kindRead,
	"/krypton.v1.Services/GetResource":      kindRead,
	"/krypton.v1.Services/ListResources":    kindRead,
	"/krypton.v1.Cluster/SaveSnapshot":      kindRead,
	"/krypton.v1.Cluster/GetCluster":        kindRead,
	"/krypton.v1.Cluster/ListNodes":         kindRead,
	"/krypton.v1.Cluster/GetNode":           kindRead,
	"/krypton.v1.Cluster/GetOperation":      kindRead,
	"/krypton.v1.Cluster/WaitOperation":     kindWait,
	"/krypton.v1.Access/WhoAmI":             kindRead,
	"/krypton.v1.Access/ListRevocations":    kindRead,
	"/krypton.v1.Access/GetAuthorities":     kindRead,
	"/krypton.v1.Access/GetIssuer":          kindRead,
	"/krypton.v1.Access/ListIssuers":        kindRead,
	"/krypton.v1.Access/GetRoleBinding":     kindRead,
	"/krypton.v1.Access/ListRoleBindings":   kindRead,
	"/krypton.v1.Approvals/GetApproval":     kindRead,
	"/krypton.v1.Approvals/ListApprovals":   kindRead,
	"/krypton.v1.Policies/GetPolicy":        kindRead,
	"/krypton.v1.Policies/ListPolicies":     kindRead,
	"/krypton.v1.Policies/TestPolicy":       kindRead,
	"/krypton.v1.Ceremonies/GetCeremony":    kindRead,
	"/krypton.v1.Ceremonies/ListCeremonies": kindRead,
	"/krypton.v1.Ceremonies/GetManifests":   kindRead,
	// Signs what the registry says anyway, and another attempt signs it again.
	"/krypton.v1.Access/RenewCertificate": kindRead,
	"/krypton.v1.Seal/GetSeal":            kindRead,
	"/krypton.v1.Seal/GetShard":           kindRead,
	"/krypton.v1.Admin/GetStatus":         kindRead,
	"/krypton.v1.Admin/PlanSeal":          kindRead,
}

// once lists the methods whose answer has a secret that no second answer has: an
// attempt that is given up has made it for nobody.
//
//nolint:gochecknoglobals // Immutable table.
var once = map[string]bool{"/krypton.v1.Cluster/CreateJoinToken": true}

func kindOf(method string, req proto.Message) kind {
	if k, ok := safe[method]; ok {
		return k
	}
	if once[method] {
		return kindOnce
	}
	if requestIDField(req) != nil {
		return kindMutation
	}
	return kindUnsafe
}

func requestIDField(m proto.Message) protoreflect.FieldDescriptor {
	fd := m.ProtoReflect().Descriptor().Fields().ByName("request_id")
	if fd == nil || fd.Kind() != protoreflect.StringKind || fd.IsList() {
		return nil
	}
	return fd
}

// withRequestID returns req with a request id, and the id (I1). The caller's
// message is not changed.
func withRequestID(req proto.Message, rand io.Reader) (proto.Message, string, error) {
	fd := requestIDField(req)
	if id := req.ProtoReflect().Get(fd).String(); id != "" {
		return req, id, nil
	}
	id, err := newUUID(rand)
	if err != nil {
		return nil, "", err
	}
	req = proto.Clone(req)
	req.ProtoReflect().Set(fd, protoreflect.ValueOfString(id))
	return req, id, nil
}

// newUUID makes a random UUID (RFC 9562, version 4). Ten lines, so that the SDK
// needs no further module.
func newUUID(rand io.Reader) (string, error) {
	var u [16]byte
	if _, err := io.ReadFull(rand, u[:]); err != nil {
		return "", errs.New(errs.Internal, "the random source failed", errs.Cause(err))
	}
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	h := hex.EncodeToString(u[:])
	return fmt.Sprintf("%s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:]), nil
}
