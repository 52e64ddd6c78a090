package awskms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
)

// metadata is a client of the instance metadata service, version 2 alone. The
// SDK's reads the environment and can fall back to version 1, which answers
// whoever can make this machine send a GET.
type metadata struct {
	base   string
	clock  clock.Clock
	client *http.Client

	mu    sync.Mutex
	token string
	until time.Time
}

const (
	tokenPath  = "/latest/api/token" //nolint:gosec // A path, no credential.
	rolePath   = "/latest/meta-data/iam/security-credentials/"
	tokenTTL   = 6 * time.Hour // the longest that there is
	tokenSpare = time.Minute   // not used in its last minute
)

var roleName = regexp.MustCompile(`^[A-Za-z0-9+=,.@_-]{1,64}$`)

func newMetadata(base string, c clock.Clock) *metadata {
	// A connection for each login: they are hours apart.
	t := &http.Transport{Proxy: nil, DisableKeepAlives: true}
	return &metadata{base: strings.TrimRight(base, "/"), clock: c, client: newClient(t)}
}

// credentials implements source.
func (m *metadata) credentials(ctx context.Context) (aws.Credentials, error) {
	name, err := m.get(ctx, rolePath)
	if err != nil {
		return aws.Credentials{}, err
	}
	role := strings.TrimSpace(string(name))
	if !roleName.MatchString(role) {
		return aws.Credentials{}, misconfigured("the metadata service names no role; give the instance an instance profile")
	}
	text, err := m.get(ctx, rolePath+role)
	if err != nil {
		return aws.Credentials{}, err
	}
	defer clear(text)
	var c struct {
		Code                               string
		AccessKeyID                        string `json:"AccessKeyId"`
		SecretAccessKey, Token, Expiration string
	}
	if err := json.Unmarshal(text, &c); err != nil {
		// The error of the decoder could quote the answer.
		return aws.Credentials{}, &refused{keystore.Unavailable, errors.New("the metadata service's credentials are not JSON")}
	}
	if c.Code != "Success" {
		return aws.Credentials{}, misconfigured("the metadata service has no credentials of the role %s: %s; look at the role's trust policy for ec2.amazonaws.com", role, clip(c.Code))
	}
	expires, err := time.Parse(time.RFC3339, c.Expiration)
	if err != nil {
		return aws.Credentials{}, &refused{keystore.Unavailable, errors.New("the metadata service does not tell when its credentials end")}
	}
	return checked(aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.Token, CanExpire: true, Expires: expires})
}

// get reads a path with a token, and once more with a new token if the service
// does not know the one from memory.
func (m *metadata) get(ctx context.Context, path string) ([]byte, error) {
	for last := false; ; last = true {
		token, fresh, err := m.session(ctx)
		if err != nil {
			return nil, err
		}
		status, body, err := m.do(ctx, http.MethodGet, path, "X-Aws-Ec2-Metadata-Token", token)
		switch {
		case err != nil:
			return nil, &refused{keystore.Unavailable, fmt.Errorf("ask the metadata service: %w", err)}
		case status == http.StatusOK:
			return body, nil
		case status == http.StatusUnauthorized && !fresh && !last:
			m.forget()
			continue
		case status == http.StatusNotFound:
			return nil, misconfigured("the instance has no role; give it an instance profile")
		case status == http.StatusTooManyRequests:
			return nil, &refused{keystore.Throttled, errors.New("the metadata service asks for fewer calls")}
		case status < http.StatusInternalServerError:
			return nil, misconfigured("the metadata service refuses: status %d", status)
		}
		return nil, &refused{keystore.Unavailable, fmt.Errorf("the metadata service fails: status %d", status)}
	}
}

// session returns a token and whether it was made just now.
func (m *metadata) session(ctx context.Context) (string, bool, error) {
	m.mu.Lock()
	token, until := m.token, m.until
	m.mu.Unlock()
	if token != "" && m.clock.Now().Before(until) {
		return token, false, nil
	}
	begun := m.clock.Now()
	status, body, err := m.do(ctx, http.MethodPut, tokenPath, "X-Aws-Ec2-Metadata-Token-Ttl-Seconds", fmt.Sprint(int(tokenTTL.Seconds())))
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "", false, &refused{keystore.Unavailable, fmt.Errorf("the metadata service gives no token; from within a container the instance's metadata hop limit has to be 2 or more: %w", err)}
	case err != nil:
		return "", false, &refused{keystore.Unavailable, fmt.Errorf("ask the metadata service: %w", err)}
	case status >= http.StatusInternalServerError || status == http.StatusTooManyRequests:
		return "", false, &refused{keystore.Unavailable, fmt.Errorf("the metadata service fails: status %d", status)}
	case status != http.StatusOK || len(body) == 0:
		return "", false, misconfigured("the metadata service gives no token: status %d; version 2 has to be on, and no proxy in between", status)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.token, m.until = string(body), begun.Add(tokenTTL-tokenSpare)
	return m.token, true, nil
}

func (m *metadata) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.token = ""
}

func (m *metadata) do(ctx context.Context, method, path, header, value string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, m.base+path, http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("User-Agent", aws.SDKName+"/"+aws.SDKVersion+" app/krypton")
	r.Header.Set(header, value)
	res, err := m.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = res.Body.Close() }() // it was read, or is of no use
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, body, err
}
