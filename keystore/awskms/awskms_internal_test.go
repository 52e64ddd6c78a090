package awskms

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
)

// capture is an HTTP client that keeps a request's body, and answers nothing.
type capture struct {
	sent []byte
	body io.ReadCloser
}

func (c *capture) Do(r *http.Request) (*http.Response, error) {
	c.body = r.Body
	c.sent, _ = io.ReadAll(r.Body)
	return nil, errors.New("no answer")
}

// The SDK's request holds the secret in base64. After the call nothing of it is
// left, and who still reads the body gets nothing.
func TestTheRequestWithASecretIsWiped(t *testing.T) {
	var c capture
	client := kms.New(kms.Options{Region: "eu-central-1", HTTPClient: &c, Retryer: aws.NopRetryer{}, Credentials: fixed(aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}), APIOptions: clean()})
	plaintext := []byte("SENTINELsentinelSENTINELsentinel")
	text := []byte(base64.StdEncoding.EncodeToString(plaintext))
	var w wiping
	_, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: aws.String("k"), Plaintext: plaintext}, func(o *kms.Options) { o.APIOptions = append(o.APIOptions, w.step) })
	if err == nil || !bytes.Contains(c.sent, text) {
		t.Fatalf("the request does not hold what the test looks for: %v, %q", err, c.sent)
	}
	memory := w.body.b
	if !bytes.Equal(memory, c.sent) {
		t.Fatal("what is wiped is not what was sent")
	}
	w.end()
	if bytes.Contains(memory, text) || !bytes.Equal(memory, make([]byte, len(memory))) {
		t.Errorf("left: %q", memory)
	}
	if _, err := w.body.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if n, err := w.body.Read(make([]byte, 10)); n != 0 || !errors.Is(err, errGone) {
		t.Errorf("read %d, %v", n, err)
	}
}

// A connection may still read the body when the call was given up.
func TestWipingBesideAReader(*testing.T) {
	for range 50 {
		b := bytes.Repeat([]byte{'x'}, 1<<12)
		w := &wiped{r: bytes.NewReader(b), b: b}
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{w}, make([]byte, 7)) })
		w.wipe()
		wg.Wait()
	}
}

func TestEveryCodeOfAVerdictIsSpelledWithoutException(t *testing.T) {
	for code, v := range verdicts {
		if strings.HasSuffix(code, "Exception") || v.class < keystore.Denied || v.class > keystore.Corrupt {
			t.Errorf("%s: %+v", code, v)
		}
		if v.login && v.class != keystore.Misconfigured || v.denied && v.class != keystore.Denied {
			t.Errorf("%s: %+v", code, v)
		}
	}
}

func TestPartitions(t *testing.T) {
	for region, want := range map[string]string{
		"eu-central-1": "aws", "us-east-1": "aws", "cn-north-1": "aws-cn", "us-gov-west-1": "aws-us-gov", "eusc-de-east-1": "aws-eusc", "us-iso-east-1": "aws-iso", "us-isob-east-1": "aws-iso-b",
	} {
		if got := partitionOf(region); got != want || !regionForm.MatchString(region) {
			t.Errorf("%s: %s, want %s; accepted: %v", region, got, want, regionForm.MatchString(region))
		}
	}
}

// A vector: changing it makes stored blobs unreadable.
func TestTheEncryptionContextIsWhatItWas(t *testing.T) {
	got := encryptionContext([]byte("keyspace 1, tenant 7"))
	want := map[string]string{"krypton": "KfqziK-Brn_7Vcl51hL5DLyNvhEHbFhKO-egWUL2ejU"}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Go's own rule for proxies leaves out loopback, so that no test on it would
// notice one.
func TestI1_NoConnectionAsksForAProxy(t *testing.T) {
	for name, c := range map[string]http.RoundTripper{
		"kms and sts": (settings{timeout: time.Second}).newTransport(), "metadata": newMetadata("http://x", clock.System{}).client.Transport,
	} {
		if b, ok := c.(bounded); ok {
			c = b.next
		}
		if transport, ok := c.(*http.Transport); !ok || transport.Proxy != nil {
			t.Errorf("%s: %T with a proxy", name, c)
		}
	}
}

// Without endpoints in the settings, those of the region are used.
func TestTheRegionsEndpointsAreTheDefault(t *testing.T) {
	p, err := New(t.Context(), testEnv(), keystore.Config{Name: "a", Type: Type, Settings: map[string]string{"region": "eu-central-1", "auth": "imds"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	k, ok := p.(*Keystore)
	if !ok {
		t.Fatalf("%T", p)
	}
	seen := make(chan string, 1)
	k.client = kms.New(k.client.Options(), func(o *kms.Options) {
		o.HTTPClient = doer(func(r *http.Request) (*http.Response, error) {
			seen <- r.URL.String()
			return nil, errors.New("no answer")
		})
	})
	_, _, _ = k.describe(t.Context(), "x", func(o *kms.Options) { o.Credentials = fixed(aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}) })
	if got := <-seen; got != "https://kms.eu-central-1.amazonaws.com/" {
		t.Errorf("asked %s", got)
	}
}

type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

// A call without credentials does not go out unsigned.
func TestI4_NothingGoesOutUnsigned(t *testing.T) {
	client := kms.New(kms.Options{Region: "eu-central-1", Retryer: aws.NopRetryer{}, Credentials: none, HTTPClient: doer(func(*http.Request) (*http.Response, error) {
		t.Error("a request went out")
		return nil, errors.New("no answer")
	})})
	if _, err := client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: aws.String("x")}); err == nil {
		t.Error("it succeeded")
	}
}

func TestALoginAfterCloseIsRefused(t *testing.T) {
	l := newLogin(testEnv(), "a", time.Second, func(context.Context) (aws.Credentials, error) {
		t.Error("a login began")
		return aws.Credentials{}, nil
	})
	l.close()
	if _, err := l.get(t.Context(), ""); !errors.Is(err, errClosed) {
		t.Error(err)
	}
}

// Whoever calls without a deadline gets an answer all the same.
func TestARequestHasATimeOfItsOwn(t *testing.T) {
	hanging := wire.NewHTTP(http.NotFoundHandler())
	defer hanging.Fault(wire.Fault{Hang: true})()
	srv, err := wire.Serve(hanging, wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	dir := t.TempDir()
	ca, keys := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "keys")
	if err := errors.Join(os.WriteFile(ca, srv.CA, 0o600), os.WriteFile(keys, []byte("[a]\naws_access_key_id=a\naws_secret_access_key=b\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	p, err := New(t.Context(), testEnv(), keystore.Config{Name: "a", Type: Type, Settings: map[string]string{
		"region": "eu-central-1", "auth": "static-file", "credentials_file": keys, "endpoint": srv.URL, "ca_file": ca,
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	k, ok := p.(*Keystore)
	if !ok || k.s.timeout != requestTime {
		t.Fatalf("%T with %s", p, k.s.timeout)
	}
	k.s.timeout = 100 * time.Millisecond
	err = k.Health(t.Context(), "")
	if keystore.ClassOf(err) != keystore.Unavailable || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer within 100ms") {
		t.Error(err)
	}
}

func FuzzCredentialsFile(f *testing.F) {
	f.Add([]byte("[default]\naws_access_key_id = a\naws_secret_access_key = b\naws_session_token = c\n"))
	f.Add([]byte("# x\n; y\n[a]\r\naws_access_key_id=a\r\n"))
	f.Add([]byte("[]\n=\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseCredentials(text)
		if err != nil {
			// An error may not quote the file: it may have been the secret.
			if len(text) > 40 && strings.Contains(err.Error(), string(text)) {
				t.Errorf("the error quotes the file: %v", err)
			}
			return
		}
		if !c.HasKeys() || c.CanExpire {
			t.Errorf("%q: incomplete keys", text)
		}
	})
}

func FuzzKeyReference(f *testing.F) {
	s := settings{region: "eu-central-1", partition: "aws"}
	for _, ref := range []string{"alias/a", "mrk-00000000000000000000000000000000", "01234567-89ab-cdef-0123-456789abcdef", "arn:aws:kms:eu-central-1:111122223333:key/01234567-89ab-cdef-0123-456789abcdef", "arn:aws:kms:us-east-1:1:key/x"} {
		f.Add(ref)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		id, err := s.checkRef(keystore.KeyRef(ref))
		if err != nil {
			return
		}
		if strings.ContainsAny(ref, " \n?#@\\%") || id != "" && !strings.HasSuffix(ref, id) {
			t.Errorf("%q is accepted with id %q", ref, id)
		}
		if rest, arn := strings.CutPrefix(ref, "arn:"); arn && !strings.HasPrefix(rest, "aws:kms:eu-central-1:") {
			t.Errorf("%q is of another region", ref)
		}
	})
}

func testEnv() keystore.Env {
	return keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
}
