package vaultserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
)

// Kubernetes stands in for the API server of a Kubernetes cluster: it makes
// service account tokens and answers TokenReview, which is all that Vault's
// kubernetes method asks of it.
type Kubernetes struct {
	server *wire.Server
	key    *ecdsa.PrivateKey

	mu      sync.Mutex
	reviews int
	valid   map[string]account // by token
}

// account is a service account.
type account struct{ namespace, name, uid string }

// StartKubernetes starts the API server on loopback.
func StartKubernetes() (*Kubernetes, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	k := &Kubernetes{key: key, valid: make(map[string]account)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /apis/authentication.k8s.io/v1/tokenreviews", k.review)
	k.server, err = wire.Serve(mux, wire.Options{})
	return k, err
}

// Close ends it.
func (k *Kubernetes) Close() error { return k.server.Close() }

// Reviews returns how many tokens were looked at so far.
func (k *Kubernetes) Reviews() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reviews
}

// Token makes a token of a service account, as a pod finds it in a projected volume.
func (k *Kubernetes) Token(namespace, name string) (string, error) {
	now := clock.System{}.Now()
	a := account{namespace, name, fmt.Sprintf("%x", sha256.Sum256([]byte(namespace+"/"+name)))[:32]}
	claims, err := json.Marshal(map[string]any{
		"iss": k.server.URL, "sub": "system:serviceaccount:" + namespace + ":" + name,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": fmt.Sprint(now.UnixNano()),
		"kubernetes.io": map[string]any{"namespace": namespace, "serviceaccount": map[string]string{"name": name, "uid": a.uid}},
	})
	if err != nil {
		return "", err
	}
	enc := base64.RawURLEncoding
	signed := enc.EncodeToString([]byte(`{"alg":"ES256","typ":"JWT"}`)) + "." + enc.EncodeToString(claims)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, k.key, digest[:])
	if err != nil {
		return "", err
	}
	var sig [64]byte
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	token := signed + "." + enc.EncodeToString(sig[:])
	k.mu.Lock()
	defer k.mu.Unlock()
	k.valid[token] = a
	return token, nil
}

// Forget makes every token that was given out invalid, as the deletion of the service account does.
func (k *Kubernetes) Forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.valid)
}

func (k *Kubernetes) review(w http.ResponseWriter, r *http.Request) {
	var in struct{ Spec struct{ Token string } }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	k.mu.Lock()
	a, ok := k.valid[in.Spec.Token]
	k.reviews++
	k.mu.Unlock()
	status := map[string]any{"authenticated": ok}
	if ok {
		status["user"] = map[string]any{"username": "system:serviceaccount:" + a.namespace + ":" + a.name, "uid": a.uid}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status})
}

// KubernetesAuth sets up a kubernetes method at a path against k, with one role
// for a service account.
func (s *Server) KubernetesAuth(ctx context.Context, path string, k *Kubernetes, role, namespace, name string, params map[string]any) error {
	if err := s.EnableAuth(ctx, path, "kubernetes"); err != nil {
		return err
	}
	if err := s.Admin(ctx, http.MethodPost, "auth/"+path+"/config", map[string]any{
		"kubernetes_host": k.server.URL, "kubernetes_ca_cert": string(k.server.CA), "disable_local_ca_jwt": true,
	}, nil); err != nil {
		return err
	}
	all := map[string]any{"bound_service_account_names": name, "bound_service_account_namespaces": namespace}
	maps.Copy(all, params)
	return s.Admin(ctx, http.MethodPost, "auth/"+path+"/role/"+role, all, nil)
}

// CertAuth sets up a cert method at a path with one role for client
// certificates of the server's CA that have a common name.
func (s *Server) CertAuth(ctx context.Context, path, role, name string, params map[string]any) error {
	if err := s.EnableAuth(ctx, path, "cert"); err != nil {
		return err
	}
	all := map[string]any{"certificate": string(s.Clients.PEM()), "allowed_common_names": name}
	maps.Copy(all, params)
	return s.Admin(ctx, http.MethodPost, "auth/"+path+"/certs/"+role, all, nil)
}
