package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/server/gateway"
)

// lie is a header with which a sender tries to be somebody else, to come from
// elsewhere, or to be another call.
type lie struct {
	header string
	values []string
}

// lies are headers that mean an identity, an address, a forwarder or a call to some
// program, and all ways we know in which one of ours could be smuggled in. Whoever
// adds a door, or a header that a door reads, finds out here what it does to that.
func lies(gov, dead string) []lie {
	once := func(v string, names ...string) (all []lie) {
		for _, n := range names {
			all = append(all, lie{n, []string{v}})
		}
		return all
	}
	all := once(gov,
		"krypton-principal", "krypton-identity", "krypton-role", "krypton-tenant", "krypton-via", "krypton-via-node", "krypton-node",
		"krypton-forwarded-for", "krypton-serial", "krypton-principal-bin", "x-principal", "x-forwarded-user", "x-remote-user", "remote-user", "x-auth-request-user",
		"x-authenticated-userid", "x-spiffe-id", "x-client-cn", "x-ssl-client-s-dn", "ssl-client-subject-dn", "impersonate-user", "x-goog-authenticated-user-email",
		"x-amzn-oidc-identity", "cookie", "from", "proxy-authorization", "www-authenticate")
	all = append(all, once("Hash=00;URI="+gov, "x-forwarded-client-cert", "client-cert", "client-cert-chain", "x-ssl-client-cert", "x-ssl-cert", "x-client-certificate")...)
	all = append(all, once("10.0.0.1", "x-forwarded-for", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip", "x-cluster-client-ip", "x-envoy-external-address")...)
	all = append(all, once("for=10.0.0.1;by=n2;host=evil.example", "forwarded", "via", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-forwarded-server", "x-original-url", "x-rewrite-url")...)
	all = append(all, once("DELETE", "x-http-method-override", "x-method-override")...)
	all = append(all, once(dead, "krypton-correlation-id", "krypton-request-id", "krypton-attempt", "x-request-id", "x-correlation-id", "request-id", "x-b3-traceid", "b3",
		"x-amzn-trace-id", "x-cloud-trace-context", "traceparent-bin", "tracestate", "baggage", "uber-trace-id", "grpc-trace-bin", "grpc-tags-bin", "krypton-operation", "krypton-said")...)
	// What the gateway makes of such headers if it is let.
	for _, inner := range []string{"krypton-principal", "authorization", "traceparent", "krypton-async", "x-forwarded-for", "krypton-principal-bin", "krypton-via"} {
		all = append(all, lie{"grpc-metadata-" + inner, []string{gov}}, lie{"grpcgateway-" + inner, []string{gov}})
	}
	trace := "00-" + strings.ReplaceAll(dead, "-", "") + "-b7ad6b7169203331-01"
	return append(all,
		lie{"grpc-metadata-traceparent", []string{trace}},
		lie{"traceparent", []string{trace, trace}},                                               // twice is nobody's
		lie{"traceparent", []string{trace + "," + trace}},                                        //
		lie{"traceparent", []string{strings.ToUpper(trace)}},                                     //
		lie{"traceparent", []string{"00-00000000000000000000000000000000-" + dead[:16] + "-01"}}, //
		lie{"user-agent", []string{gov}},
		lie{"referer", []string{"https://evil.example/" + gov}},
	)
}

// record is what stands in the audit trail, as far as these tests look.
type record struct {
	Correlation, Principal, Role, Act, Object, Via, Phase, Outcome, Cause, Code, Approval string
}

// recordsOf returns the records of a call on a node.
func (m *member) recordsOf(t testing.TB, correlation string) (all []record) {
	t.Helper()
	for line := range bytes.Lines(m.records()) {
		if !bytes.Contains(line, []byte(correlation)) {
			continue
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		if r.Correlation == correlation {
			all = append(all, r)
		}
	}
	return all
}

// toggled is a change that can be made again and again: what it does to a service, and
// what it is called in the audit trail.
func toggled(i int) (verb, act string) {
	if i%2 == 0 {
		return "suspend", "services.suspend"
	}
	return "resume", "services.resume"
}

// change asks a node for a change over one of its doors, with a header, and returns
// the correlation id of the answer.
func (w *world) change(t testing.TB, at int, door, verb, id string, l lie) string {
	t.Helper()
	const service = "tenants/other/services/pay"
	if door != "grpc" {
		req, err := http.NewRequestWithContext(limited(t), http.MethodPost, "https://"+w.members[at].addrs.REST+"/v1/"+service+":"+verb, strings.NewReader(`{"requestId":"`+id+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range l.values {
			req.Header.Add(l.header, v)
		}
		a := w.do(t, "governor", door, req)
		if a.status != http.StatusOK {
			t.Fatalf("%s over %s: %d %s", l.header, door, a.status, a.body)
		}
		return a.header.Get(gateway.CorrelationHeader)
	}
	var pairs []string
	for _, v := range l.values {
		pairs = append(pairs, l.header, v)
	}
	ctx, cc := metadata.AppendToOutgoingContext(limited(t), pairs...), kryptonv1.NewServicesClient(w.grpc(at, "governor"))
	var md metadata.MD
	var err error
	if verb == "suspend" {
		_, err = cc.SuspendService(ctx, &kryptonv1.SuspendServiceRequest{Name: service, RequestId: id}, grpc.Header(&md))
	} else {
		_, err = cc.ResumeService(ctx, &kryptonv1.ResumeServiceRequest{Name: service, RequestId: id}, grpc.Header(&md))
	}
	if err != nil {
		t.Fatalf("%s over gRPC: %v", l.header, err)
	}
	return correlationOf(md)
}

// TestI1_NoHeaderReachesIdentityRecordOrCorrelation makes a change over each door of a
// node that follows, with each lie. What that node and the leader record, under which
// id, and whose change the registry remembers, is as if the lie had not been told.
func TestI1_NoHeaderReachesIdentityRecordOrCorrelation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("other", "pay")
	lead := w.leader()
	leader, follower := w.members[lead], w.members[1-lead]
	const dead, service = "00000000-dead-4ead-8ead-00000000dead", "tenants/other/services/pay"
	gov, i := w.people["governor"].Leaf.URIs[0].String(), -1
	builtin, _ := leader.state.View().Issuer("", "builtin")
	issuer := auth.Issuer(builtin.GetUid()).String()
	me := issuer + "/governor/alice"
	for _, l := range lies(strings.Replace(gov, "alice", "mallory", 1), dead) {
		for _, door := range []string{"grpc", "h2", "http/1.1"} {
			i++
			verb, act := toggled(i)
			request := uuid.NewString()
			id := w.change(t, 1-lead, door, verb, request, l)
			u, err := uuid.Parse(id)
			if err != nil || u.Version() != 7 || id == dead {
				t.Errorf("%s over %s made the correlation id %q", l.header, door, id)
			}
			want := []record{
				{Correlation: id, Principal: me, Role: "governor", Act: act, Object: service, Phase: "intent"},
				{Correlation: id, Principal: me, Role: "governor", Act: act, Object: service, Phase: "outcome", Outcome: "ok"},
			}
			if diff := cmp.Diff(want, follower.recordsOf(t, id)); diff != "" {
				t.Errorf("%s over %s is recorded (-want +got):\n%s", l.header, door, diff)
			}
			want = []record{{
				Correlation: id, Principal: me, Role: "governor", Act: "node.forward", Object: service, Via: string(follower.c.NodeID()), Phase: "whole", Outcome: "ok", Cause: "change_object",
			}}
			if diff := cmp.Diff(want, leader.recordsOf(t, id)); diff != "" {
				t.Errorf("%s over %s is recorded by the leader (-want +got):\n%s", l.header, door, diff)
			}
			r, ok := leader.state.View().Request(&fsmpb.Principal{Issuer: issuer, Kind: "governor", Name: "alice"}, request, 0)
			if !ok || r.GetViaNode() != string(follower.c.NodeID()) {
				t.Errorf("%s over %s: the registry does not remember it as alice's via the node: %v", l.header, door, r)
			}
		}
	}
}

// TestI1_TheAddressOfASenderIsNowhere: what stands in records of a call does not
// depend on from where it came, so neither a proxy nor who pretends to be one decides it.
func TestI1_TheAddressOfASenderIsNowhere(t *testing.T) {
	t.Parallel()
	w := served(t)
	w.change(t, 0, "grpc", "suspend", uuid.NewString(), lie{"x-forwarded-for", []string{"10.0.0.1"}})
	w.change(t, 0, "h2", "resume", uuid.NewString(), lie{"x-forwarded-for", []string{"10.0.0.1"}})
	for _, text := range []string{"10.0.0.1", "127.0.0.1"} {
		if bytes.Contains(w.members[0].records(), []byte(text)) {
			t.Errorf("the audit trail has the address %s", text)
		}
	}
}

// TestI1_ATokenTwiceIsNobody whatever the case of the header, over HTTP/1.1, which
// alone lets a sender choose the case.
func TestI1_ATokenTwiceIsNobody(t *testing.T) {
	t.Parallel()
	w, p := tokens(t)
	good := "Bearer " + p.token(t, "app")
	for name, c := range map[string]struct {
		lines []string
		want  int
	}{
		"once":                  {[]string{"AUTHORIZATION: " + good}, http.StatusOK},
		"once, another case":    {[]string{"aUtHoRiZaTiOn: " + good}, http.StatusOK},
		"twice":                 {[]string{"Authorization: " + good, "authorization: " + good}, http.StatusUnauthorized},
		"twice in one line":     {[]string{"Authorization: " + good + ", " + good}, http.StatusUnauthorized},
		"and an empty one":      {[]string{"Authorization: " + good, "Authorization: "}, http.StatusUnauthorized},
		"folded, which is one":  {[]string{"Authorization:\r\n " + good}, http.StatusOK},
		"with a blank in front": {[]string{"Authorization : " + good}, http.StatusBadRequest},
		"of a proxy only":       {[]string{"Proxy-Authorization: " + good}, http.StatusUnauthorized},
		"as a trailer only":     {[]string{"Trailer: Authorization", "Transfer-Encoding: chunked"}, http.StatusUnauthorized},
		"through the gateway":   {[]string{"Grpc-Metadata-Authorization: " + good}, http.StatusUnauthorized},
	} {
		conn := w.rawDial(w.members[0].addrs.REST, w.tlsConfig())
		body := ""
		if strings.Contains(name, "trailer") {
			body = "0\r\nAuthorization: " + good + "\r\n\r\n"
		}
		_, _ = fmt.Fprintf(conn, "GET /v1/access:whoAmI HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n%s", strings.Join(c.lines, "\r\n"), body)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s: status %d, want %d", name, resp.StatusCode, c.want)
		}
	}
}

// rawCall is a call over gRPC from single frames: client libraries do not send what
// these tests do. It returns the name of the caller that the node answered to, or "".
func (w *world) rawCall(t testing.TB, person string, fields, trailers []hpack.HeaderField) string {
	t.Helper()
	cfg := w.tlsConfig(w.certOf(person)...)
	cfg.NextProtos = []string{"h2"}
	conn := w.rawDial(w.members[0].addrs.GRPC, cfg)
	if deadline, ok := limited(t).Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	put := func(all []hpack.HeaderField) []byte {
		block.Reset()
		for _, f := range all {
			_ = enc.WriteField(f)
		}
		return bytes.Clone(block.Bytes())
	}
	_, _ = io.WriteString(conn, http2.ClientPreface)
	fr := http2.NewFramer(conn, conn)
	_ = fr.WriteSettings()
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: put(fields), EndHeaders: true})
	_ = fr.WriteData(1, len(trailers) == 0, make([]byte, 5)) // an empty message
	if len(trailers) > 0 {
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: put(trailers), EndHeaders: true, EndStream: true})
	}
	var body []byte
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return ""
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = fr.WriteSettingsAck()
			}
		case *http2.DataFrame:
			body = append(body, f.Data()...)
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return ""
		case *http2.HeadersFrame:
			if !f.StreamEnded() {
				continue
			}
			me := &kryptonv1.WhoAmIResponse{}
			if len(body) < 5 || int(binary.BigEndian.Uint32(body[1:])) != len(body)-5 || proto.Unmarshal(body[5:], me) != nil {
				return ""
			}
			return me.GetName()
		}
	}
}

// TestI1_WhatOnlyFramesCanSay: names in capitals, invented and repeated pseudo headers,
// headers behind the message. The call is of whoever it is of, or it is none.
func TestI1_WhatOnlyFramesCanSay(t *testing.T) {
	t.Parallel()
	w, p := tokens(t)
	good := "Bearer " + p.token(t, "app")
	base := []hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "https"},
		{Name: ":path", Value: kryptonv1.Access_WhoAmI_FullMethodName},
		{Name: ":authority", Value: "x"},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "te", Value: "trailers"},
	}
	with := func(more ...hpack.HeaderField) []hpack.HeaderField {
		return append(append([]hpack.HeaderField{}, base...), more...)
	}
	before := func(more ...hpack.HeaderField) []hpack.HeaderField {
		return append(append([]hpack.HeaderField{}, more...), base...)
	}
	auditor := w.rawCall(t, "auditor", base, nil)
	if auditor == "" {
		t.Fatal("a plain call was not answered")
	}
	if got := w.rawCall(t, "auditor", with(hpack.HeaderField{Name: "authorization", Value: good}), nil); got == "" || got == auditor {
		t.Fatalf("a token was not seen: %q", got)
	}
	for name, c := range map[string]struct{ fields, trailers []hpack.HeaderField }{
		"capitals":                {with(hpack.HeaderField{Name: "Authorization", Value: good}), nil},
		"an invented pseudo":      {before(hpack.HeaderField{Name: ":authorization", Value: good}), nil},
		"a pseudo behind":         {with(hpack.HeaderField{Name: ":authority", Value: "governor"}), nil},
		"two authorities":         {before(hpack.HeaderField{Name: ":authority", Value: "governor"}), nil},
		"host and authority":      {with(hpack.HeaderField{Name: "host", Value: "governor"}), nil},
		"behind the message":      {base, []hpack.HeaderField{{Name: "authorization", Value: good}}},
		"binary":                  {with(hpack.HeaderField{Name: "authorization-bin", Value: good}), nil},
		"of the gateway":          {with(hpack.HeaderField{Name: "grpcgateway-authorization", Value: good}), nil},
		"a proxy's":               {with(hpack.HeaderField{Name: "proxy-authorization", Value: good}), nil},
		"one that TLS would make": {with(hpack.HeaderField{Name: "x-forwarded-client-cert", Value: good}), nil},
		"twice":                   {with(hpack.HeaderField{Name: "authorization", Value: good}, hpack.HeaderField{Name: "authorization", Value: good}), nil},
	} {
		if got := w.rawCall(t, "auditor", c.fields, c.trailers); got != auditor && got != "" {
			t.Errorf("%s: the call is of %q", name, got)
		}
		if got := w.rawCall(t, "", c.fields, c.trailers); got != "" {
			t.Errorf("%s, without a certificate: the call is of %q", name, got)
		}
	}
}

// TestI1_TheSocketReadsNoIdentity: whoever may open it is the local operator.
func TestI1_TheSocketReadsNoIdentity(t *testing.T) {
	t.Parallel()
	w := served(t)
	m := w.members[0]
	gov := w.people["governor"].Leaf.URIs[0].String()
	for _, l := range append(lies(gov, "00000000-dead-4ead-8ead-00000000dead"), lie{"authorization", []string{"Bearer x"}}) {
		var pairs []string
		for _, v := range l.values {
			pairs = append(pairs, l.header, v)
		}
		var md metadata.MD
		if _, err := m.admin().GetStatus(metadata.AppendToOutgoingContext(limited(t), pairs...), &kryptonv1.GetStatusRequest{}, grpc.Header(&md)); err != nil {
			t.Fatalf("%s: %v", l.header, err)
		}
		id := correlationOf(md)
		if u, err := uuid.Parse(id); err != nil || u.Version() != 7 {
			t.Errorf("%s made the correlation id %q", l.header, id)
		}
	}
}

// TestAWrongTokenIsNotPassedOver for the certificate beside it: over both doors.
func TestAWrongTokenIsNotPassedOver(t *testing.T) {
	t.Parallel()
	w := served(t)
	for _, v := range []string{"", "Bearer", "Bearer x.y.z", "Basic YTpi", "bearer  x"} {
		ctx := metadata.AppendToOutgoingContext(context.WithoutCancel(limited(t)), "authorization", v)
		if _, err := kryptonv1.NewAccessClient(w.grpc(0, "governor")).WhoAmI(ctx, &kryptonv1.WhoAmIRequest{}); codeOf(err) != errs.Unauthenticated {
			t.Errorf("gRPC with %q: %v", v, err)
		}
		if got := w.send(t, "governor", http.MethodGet, "/v1/access:whoAmI", "", "Authorization", v).refusal(t); got.Code != errs.Unauthenticated {
			t.Errorf("HTTP with %q: %v", v, got)
		}
	}
}
