package awsserver

import (
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// credentialsXML is the part of STS's answers that clients read.
type credentialsXML struct {
	XMLName xml.Name
	Result  struct {
		XMLName     xml.Name
		Credentials struct {
			AccessKeyID     string `xml:"AccessKeyId"`
			SecretAccessKey string
			SessionToken    string
			Expiration      string
		}
		AssumedRoleUser struct {
			Arn           string
			AssumedRoleID string `xml:"AssumedRoleId"`
		}
	}
	RequestID string `xml:"ResponseMetadata>RequestId"`
}

type errorXML struct {
	XMLName xml.Name `xml:"ErrorResponse"`
	Error   struct {
		Type    string
		Code    string
		Message string
	}
	RequestID string `xml:"RequestId"`
}

func (s *Server) serveSTS(w http.ResponseWriter, r *http.Request) {
	rec := Record{Source: "sts.amazonaws.com", RequestID: requestID(), UserAgent: r.UserAgent()}
	var out any
	status := http.StatusOK
	n, no := s.handleSTS(r, &rec)
	if no != nil {
		rec.ErrorCode, status = no.code, no.status
		e := errorXML{RequestID: rec.RequestID}
		e.Error.Type, e.Error.Code, e.Error.Message = "Sender", no.code, no.message
		out = e
	} else {
		c := credentialsXML{XMLName: xml.Name{Space: "https://sts.amazonaws.com/doc/2011-06-15/", Local: rec.Event + "Response"}, RequestID: rec.RequestID}
		c.Result.XMLName.Local = rec.Event + "Result"
		c.Result.Credentials.AccessKeyID, c.Result.Credentials.SecretAccessKey, c.Result.Credentials.SessionToken = n.id, n.secret, n.token
		c.Result.Credentials.Expiration = n.expires.UTC().Format(time.RFC3339)
		c.Result.AssumedRoleUser.Arn, c.Result.AssumedRoleUser.AssumedRoleID = n.principal, "AROA"+n.id[4:]
		out = c
	}
	s.record(rec) // I2
	w.Header().Set("X-Amzn-RequestId", rec.RequestID)
	w.Header().Set("Content-Type", "text/xml")
	w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
	w.WriteHeader(status)
	_ = xml.NewEncoder(w).Encode(out)
}

func (s *Server) handleSTS(r *http.Request, rec *Record) (*session, *refusal) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, refuse("MalformedInput", "")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, refuse("MalformedInput", "")
	}
	rec.Event = form.Get("Action")
	s.mu.Lock()
	var role Role
	known, ok := s.roles[form.Get("RoleArn")]
	if ok {
		role = *known
	}
	fail := s.faults["sts:"+rec.Event]
	if fail != nil && fail.left != 0 {
		fail.left--
		s.mu.Unlock()
		return nil, &fail.refusal
	}
	s.mu.Unlock()
	// AWS answers alike for a role that is not there and one that may not be assumed.
	denied := &refusal{status: http.StatusForbidden, code: "AccessDenied", message: "Not authorized to perform sts:" + rec.Event}
	switch rec.Event {
	case "AssumeRoleWithWebIdentity":
		subject, audiences, err := s.issuer.verify(form.Get("WebIdentityToken"), s.now())
		switch {
		case errors.Is(err, errExpired):
			return nil, refuse("ExpiredTokenException", "Token expired")
		case err != nil:
			return nil, refuse("InvalidIdentityToken", err.Error())
		case !ok || role.WebIdentity == "" || role.WebIdentity != subject || !slices.Contains(audiences, role.Audience):
			return nil, denied
		}
	case "AssumeRole":
		who, no := s.authenticate(r, body, "sts")
		if who != nil {
			rec.Principal = who.principal
		}
		if no != nil {
			return nil, stsSpelling(no)
		}
		if !ok || role.TrustedPrincipal == "" || role.TrustedPrincipal != who.role || role.ExternalID != "" && role.ExternalID != form.Get("ExternalId") {
			return nil, denied
		}
	default:
		return nil, refuse("InvalidAction", "")
	}
	name := form.Get("RoleSessionName")
	if len(name) < 2 || len(name) > 64 {
		return nil, refuse("ValidationError", "1 validation error detected: roleSessionName")
	}
	return s.newSession("arn:aws:sts::"+role.Account+":assumed-role/"+role.Name+"/"+name, form.Get("RoleArn"), s.ttl), nil
}

// stsSpelling turns the JSON services' error codes into those of STS.
func stsSpelling(no *refusal) *refusal {
	spelled := *no
	spelled.status = http.StatusForbidden
	switch no.code {
	case "UnrecognizedClientException":
		spelled.code = "InvalidClientTokenId"
	case "InvalidSignatureException":
		spelled.code = "SignatureDoesNotMatch"
	default:
		spelled.code = strings.TrimSuffix(no.code, "Exception")
	}
	return &spelled
}

// FailSTS makes the next n calls of an STS action be refused.
func (s *Server) FailSTS(action, code, message string, status, n int) {
	s.Fail("sts:"+action, code, message, status, n)
}
