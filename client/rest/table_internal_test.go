package rest

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"gopkg.in/yaml.v3"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestI7_TheTableIsThatOfTheNodes reads http.yaml in another way than the
// generator does, and puts each rule together again.
func TestI7_TheTableIsThatOfTheNodes(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../server/gateway/http.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		HTTP struct {
			Rules []map[string]any `yaml:"rules"`
		} `yaml:"http"`
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	line := func(m map[string]any) string {
		for _, verb := range []string{"get", "post", "delete"} {
			if p, ok := m[verb].(string); ok {
				return strings.ToUpper(verb) + " " + p
			}
		}
		return "?"
	}
	want, got := map[string][]string{}, map[string][]string{}
	for _, m := range file.HTTP.Rules {
		method := "/" + m["selector"].(string)
		i := strings.LastIndex(method, ".")
		method = method[:i] + "/" + method[i+1:]
		want[method] = append(want[method], line(m))
		more, _ := m["additional_bindings"].([]any)
		for _, a := range more {
			want[method] = append(want[method], line(a.(map[string]any)))
		}
	}
	for method, rules := range table {
		for _, r := range rules {
			s := r.verb + " " + r.prefix
			if r.field != "" {
				s += "{" + r.field + "=" + r.pattern + "}"
			}
			got[method] = append(got[method], s+r.suffix)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table.gen.go is not what http.yaml says; run make generate (-http.yaml +table):\n%s", diff)
	}
}

// TestEveryPublicMethodCanBeSaidInHTTP walks the API: each method is there, the
// field of its path exists, and what stands in a URL is no secret and no message.
func TestEveryPublicMethodCanBeSaidInHTTP(t *testing.T) {
	t.Parallel()
	methods := 0
	for _, sd := range []grpc.ServiceDesc{
		kryptonv1.Crypto_ServiceDesc, kryptonv1.Tenants_ServiceDesc, kryptonv1.Services_ServiceDesc,
		kryptonv1.Seal_ServiceDesc, kryptonv1.Cluster_ServiceDesc, kryptonv1.Access_ServiceDesc, kryptonv1.Approvals_ServiceDesc, kryptonv1.Policies_ServiceDesc,
		kryptonv1.Ceremonies_ServiceDesc,
	} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(sd.ServiceName))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range sd.Methods {
			methods++
			name := "/" + sd.ServiceName + "/" + m.MethodName
			in := d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(m.MethodName)).Input()
			if len(table[name]) == 0 {
				t.Errorf("%s is not in the table", name)
			}
			for _, r := range table[name] {
				if fd := in.Fields().ByName(protoreflect.Name(r.field)); r.field != "" && (fd == nil || fd.Kind() != protoreflect.StringKind) {
					t.Errorf("%s: no text field %q", name, r.field)
				}
				// net/http may send it again by itself.
				if r.verb == "DELETE" && in.Fields().ByName("request_id") == nil {
					t.Errorf("DELETE %s has no request id", name)
				}
				for i := range in.Fields().Len() {
					fd := in.Fields().Get(i)
					if fd.Name() == "intents" && table[name][0].verb == "POST" {
						continue // signatures go by the first form, which has a body
					}
					if _, ok := scalar(fd, fd.Default()); !ok && r.verb != "POST" {
						t.Errorf("%s %s: field %s fits no URL", r.verb, name, fd.Name())
					}
				}
			}
		}
	}
	if methods != len(table) || methods < 45 {
		t.Errorf("%d methods, %d in the table", methods, len(table))
	}
}

func TestNamesBecomePaths(t *testing.T) {
	t.Parallel()
	c := &conn{host: "h:1"}
	for _, tt := range []struct {
		method string
		m      proto.Message
		want   string
	}{
		{"/krypton.v1.Access/WhoAmI", &kryptonv1.WhoAmIRequest{}, "GET https://h:1/v1/access:whoAmI"},
		{"/krypton.v1.Tenants/GetTenant", &kryptonv1.GetTenantRequest{Name: "tenants/a"}, "GET https://h:1/v1/tenants/a"},
		{"/krypton.v1.Tenants/ListTenants", &kryptonv1.ListTenantsRequest{PageSize: 1 << 30, PageToken: "a=&", Filter: "state=ACTIVE"}, "GET https://h:1/v1/tenants?filter=state%3DACTIVE&pageSize=1073741824&pageToken=a%3D%26"},
		{"/krypton.v1.Tenants/DeleteTenant", &kryptonv1.DeleteTenantRequest{Name: "tenants/a", Now: true}, "POST https://h:1/v1/tenants/a:delete"},
		{"/krypton.v1.Services/GetVersion", &kryptonv1.GetVersionRequest{Name: "tenants/a/versions/1"}, "GET https://h:1/v1/tenants/a/versions/1"},
		{"/krypton.v1.Services/GetVersion", &kryptonv1.GetVersionRequest{Name: "tenants/a/services/s/versions/1"}, "GET https://h:1/v1/tenants/a/services/s/versions/1"},
		{"/krypton.v1.Services/GetResource", &kryptonv1.GetResourceRequest{Name: "tenants/a/services/s/resources/a%2Fb%3A"}, "GET https://h:1/v1/tenants/a/services/s/resources/a%252Fb%253A"},
		{"/krypton.v1.Services/PinResource", &kryptonv1.PinResourceRequest{Name: "tenants/a/services/s/resources/a b?#", Version: 2}, "POST https://h:1/v1/tenants/a/services/s/resources/a%20b%3F%23:pin"},
	} {
		hr, err := c.request(t.Context(), tt.method, tt.m)
		if err != nil {
			t.Errorf("%s: %v", tt.method, err)
			continue
		}
		if got := hr.Method + " " + hr.URL.String(); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.method, got, tt.want)
		}
	}
	for name, m := range map[string]*kryptonv1.GetServiceRequest{
		"empty": {}, "short": {Name: "a/s"}, "empty segment": {Name: "tenants//services/s"}, "longer": {Name: "tenants/a/services/s/x"}, "other words": {Name: "services/a/tenants/s"},
		"a segment that is resolved": {Name: "tenants/../services/s"}, "one that is left out": {Name: "tenants/a/services/."},
	} {
		if _, err := c.request(t.Context(), "/krypton.v1.Services/GetService", m); !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "tenants/*/services/*") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.request(t.Context(), "/krypton.v1.Admin/Init", &kryptonv1.InitRequest{}); !errs.Is(err, errs.Unimplemented) {
		t.Errorf("a method of the administration socket: %v", err)
	}
}

func TestI5_ABodyIsWipedWhenItIsClosed(t *testing.T) {
	t.Parallel()
	c := &conn{host: "h:1"}
	plaintext := []byte("SENTINEL SENTINEL")
	hr, err := c.request(t.Context(), "/krypton.v1.Crypto/Encrypt", &kryptonv1.EncryptRequest{Service: "tenants/a/services/s", Plaintext: plaintext})
	if err != nil {
		t.Fatal(err)
	}
	p := hr.Body.(*payload)
	raw := p.raw
	if !strings.Contains(string(raw), "U0VOVElORUw") || strings.Contains(string(raw), "tenants/a") {
		t.Fatalf("body %s", raw)
	}
	if err := hr.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if strings.Trim(string(raw), "\x00") != "" {
		t.Errorf("after Close the body is %q", raw)
	}
	if _, err := hr.Body.Read(make([]byte, 1)); err == nil {
		t.Error("a closed body can be read")
	}
	if string(plaintext) != "SENTINEL SENTINEL" {
		t.Error("the caller's own plaintext was changed")
	}
}
