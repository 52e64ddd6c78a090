//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm"
)

// headers has an auditor suspend a service, with headers that say something else. It
// comes after the attacks that use the service.
func headers(ctx context.Context, w *world) (f finding, err error) {
	t, n, err := w.target(ctx)
	if err != nil {
		return f, err
	}
	v, err := t.registry(n)
	if err != nil {
		return f, notTried(err)
	}
	alice, _ := t.Person(auth.RoleGovernor)
	cert, err := os.ReadFile(alice.CertFile)
	if err != nil {
		return f, notTried(err)
	}
	i, _ := v.Issuer("", fsm.BuiltinIssuer)
	principal := hex.EncodeToString(i.GetUid()) + "/governor/alice"
	lies := http.Header{}
	for _, name := range []string{
		"Principal", "Krypton-Principal", "Krypton-Role", "Via", "Via-Node", "Krypton-Via", "Identity", "User", "Correlation-Id", "Krypton-Correlation-Id",
		"X-Forwarded-User", "X-Remote-User", "X-Forwarded-For", "Forwarded", "X-Spiffe-Id",
	} {
		for _, prefix := range []string{"", "Grpc-Metadata-", "Grpcgateway-"} {
			lies.Set(prefix+name, principal)
		}
	}
	for _, prefix := range []string{"", "Grpc-Metadata-"} {
		lies.Set(prefix+"X-Forwarded-Client-Cert", `By=krypton;Cert="`+url.QueryEscape(string(cert))+`"`)
		lies.Set(prefix+"Ssl-Client-Cert", base64.StdEncoding.EncodeToString(cert))
	}
	try := func(who auth.Role, with http.Header) (int, string, error) {
		p, _ := t.Person(who)
		pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
		if err != nil {
			return 0, "", err
		}
		ca, err := os.ReadFile(t.CAFile())
		if err != nil {
			return 0, "", err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca)
		hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{pair}}}}
		defer hc.CloseIdleConnections()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+n.Addresses().REST+"/v1/"+service+":suspend", strings.NewReader("{}"))
		if err != nil {
			return 0, "", err
		}
		req.Header = with.Clone()
		req.Header.Set("Content-Type", "application/json")
		resp, err := hc.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return resp.StatusCode, string(body), err
	}
	status, body, err := try(auth.RoleAuditor, lies)
	if err != nil {
		return f, notTried(err)
	}
	f.broke, f.ended, f.evidence = status != http.StatusForbidden, fmt.Sprintf("refused with HTTP %d", status), body
	if status, body, err = try(auth.RoleGovernor, lies); err == nil && status == http.StatusOK {
		f.control = "the service was suspended"
	} else {
		f.evidence += "; the governor: " + body
	}
	return f, err
}
