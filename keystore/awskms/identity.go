package awskms

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
)

// maxTokenFile is the longest web identity token that STS takes, in bytes.
const maxTokenFile = 20000

// maxCredentialsFile bounds a credentials file, in bytes.
const maxCredentialsFile = 16 << 10

// source gets credentials from where they are made. Its errors are *refused.
type source func(ctx context.Context) (aws.Credentials, error)

// refused is a login that failed.
type refused struct {
	class keystore.Class
	cause error
}

// Error implements error.
func (r *refused) Error() string { return r.cause.Error() }

// Unwrap returns the cause.
func (r *refused) Unwrap() error { return r.cause }

func misconfigured(format string, args ...any) error {
	return &refused{keystore.Misconfigured, fmt.Errorf(format, args...)}
}

// newLogin constructs the identity that the settings name, and no other (I1).
func (s settings) newLogin(env keystore.Env, tokens *sts.Client, name string) *login {
	var from source
	switch s.auth {
	case authWebIdentity:
		from = s.webIdentity(tokens, env.Clock)
	case authIMDS:
		from = newMetadata(s.imdsURL, env.Clock).credentials
	case authStaticFile:
		from = s.staticFile()
	}
	base := newLogin(env, name, s.timeout, from)
	if s.assumeRole == "" {
		return base
	}
	top := newLogin(env, name, s.timeout, s.assumed(tokens, base, env.Clock))
	top.base = base
	return top
}

// newSTS makes the client for logins. The credentials come with each call.
func (s settings) newSTS(env keystore.Env, client *http.Client) *sts.Client {
	o := sts.Options{
		Region: s.region, HTTPClient: client, Retryer: aws.NopRetryer{}, Credentials: none,
		DisableClockSkewCorrection: true, HTTPSignerV4: newSigner(env.Clock),
		APIOptions: clean(),
	}
	if s.stsEndpoint != "" {
		o.BaseEndpoint = &s.stsEndpoint
	}
	return sts.New(o)
}

// webIdentity exchanges a token of the platform for a role's credentials.
func (s settings) webIdentity(client *sts.Client, clk clock.Clock) source {
	return func(ctx context.Context) (aws.Credentials, error) {
		token, err := readBounded(s.tokenFile, maxTokenFile)
		if err != nil {
			return aws.Credentials{}, misconfigured("%s: %w", settingTokenFile, err)
		}
		text := strings.TrimSpace(string(token))
		out, err := client.AssumeRoleWithWebIdentity(ctx, &sts.AssumeRoleWithWebIdentityInput{RoleArn: &s.role, RoleSessionName: &s.session, WebIdentityToken: &text}, agentSTS(ctx))
		if err != nil {
			return aws.Credentials{}, refusedBy("exchange the web identity token for the role "+s.role, err, clk)
		}
		c := out.Credentials
		if c == nil {
			return aws.Credentials{}, &refused{keystore.Unavailable, errors.New("the token service answered without credentials")}
		}
		return checked(aws.Credentials{AccessKeyID: aws.ToString(c.AccessKeyId), SecretAccessKey: aws.ToString(c.SecretAccessKey), SessionToken: aws.ToString(c.SessionToken), CanExpire: true, Expires: aws.ToTime(c.Expiration)})
	}
}

// assumed assumes a role on top of another identity, whose credentials are
// renewed once if the token service says that they ended (I4).
func (s settings) assumed(client *sts.Client, base *login, clk clock.Clock) source {
	return func(ctx context.Context) (aws.Credentials, error) {
		in := &sts.AssumeRoleInput{RoleArn: &s.assumeRole, RoleSessionName: &s.session}
		if s.externalID != "" {
			in.ExternalId = &s.externalID
		}
		creds, err := base.get(ctx, "")
		if err != nil {
			return aws.Credentials{}, err
		}
		out, err := client.AssumeRole(ctx, in, agentSTS(ctx), asSTS(creds))
		if err != nil && verdictOf(err).login {
			again, e := base.get(ctx, creds.AccessKeyID)
			if e != nil {
				return aws.Credentials{}, e
			}
			if again.AccessKeyID != creds.AccessKeyID {
				out, err = client.AssumeRole(ctx, in, agentSTS(ctx), asSTS(again))
			}
		}
		if err != nil {
			no := refusedBy("assume the role "+s.assumeRole, err, clk)
			if verdictOf(err).denied && s.account != "" {
				no = &refused{keystore.Misconfigured, fmt.Errorf("%w: %w", keystore.ErrRefused, no)}
			}
			return aws.Credentials{}, no
		}
		c := out.Credentials
		if c == nil {
			return aws.Credentials{}, &refused{keystore.Unavailable, errors.New("the token service answered without credentials")}
		}
		return checked(aws.Credentials{AccessKeyID: aws.ToString(c.AccessKeyId), SecretAccessKey: aws.ToString(c.SecretAccessKey), SessionToken: aws.ToString(c.SessionToken), CanExpire: true, Expires: aws.ToTime(c.Expiration)})
	}
}

// checked refuses credentials that cannot sign, or whose end is not told.
func checked(c aws.Credentials) (aws.Credentials, error) {
	if !c.HasKeys() || c.CanExpire && c.Expires.IsZero() {
		return aws.Credentials{}, &refused{keystore.Unavailable, errors.New("the answer has no complete credentials")}
	}
	return c, nil
}

func asSTS(c aws.Credentials) func(*sts.Options) {
	return func(o *sts.Options) { o.Credentials = fixed(c) }
}

func agentSTS(ctx context.Context) func(*sts.Options) {
	return func(o *sts.Options) { o.APIOptions = append(o.APIOptions, agent(ctx)) }
}

// refusedBy turns a failure of a login into what it means. Nothing that a token
// service says is about a key.
func refusedBy(what string, err error, clk clock.Clock) error {
	v := verdictOf(err)
	if skew, explains := skewIn(err, clk.Now()); explains && v.class == keystore.Misconfigured {
		return &refused{keystore.Misconfigured, fmt.Errorf("%s: the clock of this machine is %s AWS's; set it: %w", what, skewText(skew), plain(err))}
	}
	class := v.class
	if class == keystore.Denied || class == keystore.Corrupt || v.login || v.denied {
		class = keystore.Misconfigured
	}
	return &refused{class, fmt.Errorf("%s: %w", what, plain(err))}
}

// staticFile reads the keys of a user.
func (s settings) staticFile() source {
	return func(context.Context) (aws.Credentials, error) {
		info, err := os.Stat(s.credentials)
		if err != nil {
			return aws.Credentials{}, misconfigured("%s: %w", settingCredentials, err)
		}
		if mode := info.Mode().Perm(); mode&0o037 != 0 {
			return aws.Credentials{}, misconfigured("%s has mode %#o: others can read it, or its group can write it; chmod 0600", settingCredentials, mode)
		}
		text, err := readBounded(s.credentials, maxCredentialsFile)
		if err != nil {
			return aws.Credentials{}, misconfigured("%s: %w", settingCredentials, err)
		}
		defer clear(text)
		c, err := parseCredentials(text)
		if err != nil {
			return aws.Credentials{}, misconfigured("%s: %w", settingCredentials, err)
		}
		return c, nil
	}
}

// parseCredentials reads a shared credentials file with one profile. It knows
// keys and tokens and nothing that leads elsewhere: no process to run, no other
// profile, no role. Errors do not quote the file.
func parseCredentials(text []byte) (aws.Credentials, error) {
	var c aws.Credentials
	profiles := 0
	lines := bufio.NewScanner(strings.NewReader(string(text)))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if line[0] == '[' && line[len(line)-1] == ']' {
			if profiles++; profiles > 1 {
				return aws.Credentials{}, fmt.Errorf("line %d begins a second profile; name a file with one", n)
			}
			continue
		}
		key, value, found := strings.Cut(line, "=")
		var to *string
		switch strings.TrimSpace(key) {
		case "aws_access_key_id":
			to = &c.AccessKeyID
		case "aws_secret_access_key":
			to = &c.SecretAccessKey
		case "aws_session_token":
			to = &c.SessionToken
		}
		if !found || profiles == 0 || to == nil || *to != "" {
			return aws.Credentials{}, fmt.Errorf("line %d is not one of aws_access_key_id, aws_secret_access_key and aws_session_token, once and in a profile", n)
		}
		*to = strings.TrimSpace(value)
	}
	if lines.Err() != nil || !c.HasKeys() {
		return aws.Credentials{}, errors.New("it has no aws_access_key_id and aws_secret_access_key")
	}
	return c, nil
}

// readBounded reads a file of at most n bytes.
func readBounded(path string, n int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > n || info.Size() == 0 {
		return nil, fmt.Errorf("%s is not a file of 1 to %d bytes", path, n)
	}
	return os.ReadFile(path)
}

// fixed provides credentials that are known already.
func fixed(c aws.Credentials) aws.CredentialsProvider {
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return c, nil })
}

// none is what the clients have by themselves: a call that forgot to bring
// credentials fails, instead of going out unsigned.
//
//nolint:gochecknoglobals // A constant.
var none = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
	return aws.Credentials{}, errors.New("a call without credentials")
})

// sinceLogin is how old credentials have to be for a new login to be worth it
// when access is denied (I3).
const sinceLogin = time.Minute
