package awskms

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/openkcm/krypton-cluster/keystore"
)

var (
	errClosed      = errors.New("the keystore is closed")
	errDoesNotOpen = errors.New("the blob does not open")
)

// verdict is what an error code says.
type verdict struct {
	class keystore.Class
	// login: the credentials are refused; new ones may be accepted.
	login bool
	// denied: access is denied, which may have other causes than the key's
	// owner; class is what it is if a second opinion agrees.
	denied bool
	// state: the key is in a state that does not allow this; DescribeKey tells
	// which. class is what it is if that cannot be asked.
	state bool
	// dated: the signature is refused, as it is when clocks differ.
	dated bool
}

// verdicts are AWS's error codes, without "Exception" at their end. Codes that
// are not here are Unavailable, which ends closed and purges nothing.
//
//nolint:gochecknoglobals // A constant.
var verdicts = map[string]verdict{
	// The key, by its owner.
	"Disabled": {class: keystore.Denied},
	"NotFound": {class: keystore.Denied},
	// Of the key, but not all states are its owner's will.
	"KMSInvalidState": {class: keystore.Unavailable, state: true},
	"AccessDenied":    {class: keystore.Denied, denied: true},
	"NotAuthorized":   {class: keystore.Denied, denied: true},
	// The blob.
	"InvalidCiphertext": {class: keystore.Corrupt},
	// What was asked.
	"IncorrectKey":         {class: keystore.Misconfigured},
	"InvalidKeyUsage":      {class: keystore.Misconfigured},
	"UnsupportedOperation": {class: keystore.Misconfigured},
	"InvalidArn":           {class: keystore.Misconfigured},
	"Validation":           {class: keystore.Misconfigured},
	"ValidationError":      {class: keystore.Misconfigured},
	"Serialization":        {class: keystore.Misconfigured},
	"UnknownOperation":     {class: keystore.Misconfigured},
	"InvalidAction":        {class: keystore.Misconfigured},
	"OptInRequired":        {class: keystore.Misconfigured},
	"RegionDisabled":       {class: keystore.Misconfigured},
	"InvalidImportToken":   {class: keystore.Misconfigured},
	"ExpiredImportToken":   {class: keystore.Misconfigured},
	"IncorrectKeyMaterial": {class: keystore.Misconfigured},
	// Who asked.
	"ExpiredToken":               {class: keystore.Misconfigured, login: true},
	"UnrecognizedClient":         {class: keystore.Misconfigured, login: true},
	"InvalidClientTokenId":       {class: keystore.Misconfigured, login: true},
	"MissingAuthenticationToken": {class: keystore.Misconfigured, login: true},
	"IncompleteSignature":        {class: keystore.Misconfigured},
	"InvalidSignature":           {class: keystore.Misconfigured, login: true, dated: true},
	"SignatureDoesNotMatch":      {class: keystore.Misconfigured, login: true, dated: true},
	"RequestExpired":             {class: keystore.Misconfigured, dated: true},
	"RequestTimeTooSkewed":       {class: keystore.Misconfigured, dated: true},
	"InvalidIdentityToken":       {class: keystore.Misconfigured},
	"IDPRejectedClaim":           {class: keystore.Misconfigured},
	"IDPCommunicationError":      {class: keystore.Unavailable},
	// Too many.
	"Throttling":           {class: keystore.Throttled},
	"Throttled":            {class: keystore.Throttled},
	"TooManyRequests":      {class: keystore.Throttled},
	"RequestLimitExceeded": {class: keystore.Throttled},
	"RequestThrottled":     {class: keystore.Throttled},
	"LimitExceeded":        {class: keystore.Throttled},
	"SlowDown":             {class: keystore.Throttled},
	// The service; XksProxy*, CloudHsmCluster* and CustomKeyStore* go without a line.
	"KMSInternal":        {class: keystore.Unavailable},
	"KeyUnavailable":     {class: keystore.Unavailable},
	"DependencyTimeout":  {class: keystore.Unavailable},
	"ServiceUnavailable": {class: keystore.Unavailable},
	"InternalFailure":    {class: keystore.Unavailable},
	"InternalError":      {class: keystore.Unavailable},
}

// verdictOf classifies an error of the SDK.
func verdictOf(err error) verdict {
	if r, ok := errors.AsType[*refused](err); ok {
		return verdict{class: r.class}
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		if v, ok := verdicts[strings.TrimSuffix(api.ErrorCode(), "Exception")]; ok {
			return v
		}
	}
	if statusOf(err) == http.StatusTooManyRequests {
		return verdict{class: keystore.Throttled}
	}
	return verdict{class: keystore.Unavailable}
}

func statusOf(err error) int {
	if res, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		return res.HTTPStatusCode()
	}
	return 0
}

func requestIDOf(err error) keystore.RequestID {
	if res, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		return keystore.RequestID(res.ServiceRequestID())
	}
	return ""
}

// tolerated is how far clocks may differ before it is said: AWS refuses from
// five minutes on.
const tolerated = 4 * time.Minute

// skewIn returns how far the clock of this machine is from that of the
// answer, positive if it is ahead, and whether that explains a refusal.
func skewIn(err error, now time.Time) (time.Duration, bool) {
	res, ok := errors.AsType[*awshttp.ResponseError](err)
	if !ok || res.Response == nil {
		return 0, false
	}
	theirs, e := http.ParseTime(res.Response.Header.Get("Date"))
	if e != nil {
		return 0, false
	}
	skew := now.Sub(theirs).Round(time.Second)
	return skew, skew.Abs() > tolerated
}

// plain shortens an error of the SDK to what AWS said: its full text repeats
// the operation and the request id, which keystore.Error has, and ends in a
// newline at times. What a login says stays as it is.
func plain(err error) error {
	api, ok := errors.AsType[smithy.APIError](err)
	if _, login := errors.AsType[*refused](err); login || !ok {
		return err
	}
	text := api.ErrorCode()
	if message := strings.TrimSpace(api.ErrorMessage()); message != "" && message != text {
		text = fmt.Sprintf("%s: %s", text, clip(message))
	}
	return &said{text: text, err: err}
}

// said is an error of AWS with a short text.
type said struct {
	text string
	err  error
}

// Error implements error.
func (s *said) Error() string { return s.text }

// Unwrap returns the SDK's error.
func (s *said) Unwrap() error { return s.err }

// clip bounds what a service says and takes control characters out of it.
func clip(s string) string {
	const most = 400
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
