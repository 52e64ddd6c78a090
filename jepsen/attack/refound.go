//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// evilDomain is the trust domain of the attacker's own CA.
const evilDomain = "evil.example"

// refounded rewrites the history of a cluster from its first entry on: nobody has to
// sign any more, and a suspension becomes the registration of an issuer. The keys stay
// where they are, wrapped as they are.
func refounded(ctx context.Context, w *world) (finding, error) {
	c, err := refounding()
	if err != nil {
		return finding{}, notTried(err)
	}
	try := func(name string, as cast, lies ...mutation.Name) (tried, error) {
		base, err := w.prepared(ctx, 1, as, lies...)
		if err != nil {
			return tried{}, notTried(err)
		}
		s, err := base.copyOf(ctx, name, as)
		if err != nil {
			return tried{}, notTried(err)
		}
		if err := errors.Join(s.lie(lies...), s.corrupt(ctx, s.Nodes()[0], inLog, c)); err != nil {
			return tried{}, notTried(err)
		}
		defer s.Nodes()[0].Kill()
		return s.try(ctx, s.Nodes()[0], c)
	}
	r, err := try("refounded", honest)
	if err != nil {
		return finding{}, err
	}
	f := finding{broke: r.used, ended: "the node unseals, and serves nothing", evidence: r.said}
	if r, err = try("refounded-control", control, mutation.SkipFounding, mutation.SkipEntryProof, mutation.SkipLogEnd); r.used {
		f.control = "the attacker decrypts"
	}
	return f, err
}

// refounding is the edit. Its attacker has a certificate of an own CA.
func refounding() (c corruption, err error) {
	ca, err := pki.NewCA(rand.Reader, time.Now().Add(-time.Hour), pki.ForCallers, "mallory")
	if err != nil {
		return c, err
	}
	var cert tls.Certificate
	if cert, err = mint(ca, auth.ID{TrustDomain: evilDomain, Role: auth.RoleWorkload, Tenant: tenantID, Name: "mallory"}); err != nil {
		return c, err
	}
	var fingerprint [32]byte
	c = corruption{
		name: "the founding rewritten",
		edit: func(cmd *fsmpb.Command) bool {
			if g := cmd.GetGenesis(); g != nil {
				g.Rules = nil
				raw, err := fsm.EncodeGenesis(g)
				fingerprint = fsm.Fingerprint(raw)
				return err == nil
			}
			c := cmd.GetChangeObject()
			hit := of(c.GetObject(), suspendedService) && c.GetEvent() == fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND
			if hit {
				cmd.Body = &fsmpb.Command_PutIssuer{PutIssuer: &fsmpb.PutIssuer{Create: true, Issuer: &fsmpb.Issuer{
					Id:    "evil",
					Kind:  &fsmpb.Issuer_X509{X509: &fsmpb.X509Issuer{Certificates: [][]byte{ca.Certificate().Raw}, TrustDomain: evilDomain}},
					Roles: []string{auth.RoleWorkload.String()}, UnboundRoles: []string{auth.RoleWorkload.String()}, AllTenants: true,
				}}}
			}
			return hit
		},
		files: func(dataDir string) error {
			path := filepath.Join(dataDir, "node.json")
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			node := map[string]any{}
			if err := json.Unmarshal(raw, &node); err != nil {
				return err
			}
			node["fingerprint"] = hex.EncodeToString(fingerprint[:])
			if raw, err = json.Marshal(node); err != nil {
				return err
			}
			return writeFile(path, raw)
		},
		use: func(ctx context.Context, s *scene, n *devcluster.Node) error {
			c, err := s.caller(ctx, cert, n.Addresses().GRPC)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			return opens(ctx, c, s.ciphertext)
		},
	}
	return c, nil
}
