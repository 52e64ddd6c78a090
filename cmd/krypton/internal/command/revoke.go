package command

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

var serialForm = regexp.MustCompile(`^[0-9a-fA-F:]{2,59}$`)

func revokeCommand() *Command {
	return &Command{
		Name: "revoke", Args: "FILE|SERIAL", Usage: "end what a caller's certificate may do, for good", Reach: Changes, NArgs: [2]int{1, 1},
		About: "FILE is the certificate, PEM or DER. SERIAL is its serial number, hex, as krypton operator cert issue, krypton whoami and\n" +
			"openssl show it; only a governor may give that. Every node refuses the certificate as soon as it has applied the change, on\n" +
			"open connections, too. There is no way back; issue another one instead. A governor cannot revoke the certificate in use.",
		Examples: []string{
			"krypton operator cert revoke certs/app1.pem --reason 'laptop lost' --yes",
			"krypton operator cert revoke 5f2a77c0de --reason 'found in a log' --yes",
		},
		Flags: []cli.Flag{&cli.StringFlag{Name: "reason", Usage: "`TEXT` for people and the record, no secret"}},
		Run: func(ctx context.Context, in *Invocation) error {
			req := &kryptonv1.RevokeCertificateRequest{Reason: in.c.String("reason")}
			if err := certificateOrSerial(in.args[0], req); err != nil {
				return err
			}
			if err := in.confirm("%s will not be accepted any more, and nothing takes that back", in.args[0]); err != nil {
				return err
			}
			c, err := in.client(ctx)
			if err != nil {
				return err
			}
			r, err := call(ctx, in, c.Access().RevokeCertificate, req)
			if err != nil {
				return err
			}
			return in.show(r, func() string { return revocationSheet(r) })
		},
	}
}

// certificateOrSerial fills in what arg names. A file of the name wins: nobody
// calls a certificate like a number by mistake.
func certificateOrSerial(arg string, req *kryptonv1.RevokeCertificateRequest) error {
	_, err := os.Stat(arg)
	if errors.Is(err, fs.ErrNotExist) && serialForm.MatchString(arg) {
		serial := strings.ToLower(strings.ReplaceAll(arg, ":", ""))
		if len(serial)%2 == 1 {
			serial = "0" + serial
		}
		b, err := hex.DecodeString(strings.TrimPrefix(serial, "00")) // openssl shows the sign
		if err != nil {
			return bad("serial number", arg, nil)
		}
		req.Serial = hex.EncodeToString(b)
		return nil
	}
	req.Certificate, err = readCertificate(arg)
	return err
}

// readCertificate reads the one certificate in a file and returns it in DER.
func readCertificate(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "read "+path+": "+err.Error(),
			errs.Hint("give the file of a certificate, or its serial number in hexadecimal"), errs.Cause(err))
	}
	der := raw
	if b, rest := pem.Decode(raw); b != nil {
		if der = b.Bytes; b.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) != 0 {
			der = nil
		}
	}
	if _, err := x509.ParseCertificate(der); err != nil {
		return nil, usagef("give the file that krypton operator cert issue wrote, such as app1.pem", "%s is not one certificate", path)
	}
	return der, nil
}

func revocationsCommand() *Command {
	return &Command{
		Name: "revocations", Usage: "list revoked certificates that have not expired", Reach: Reads,
		Examples: []string{"krypton operator cert revocations"},
		Run: func(ctx context.Context, in *Invocation) error {
			c, err := in.client(ctx)
			if err != nil {
				return err
			}
			all := &kryptonv1.ListRevocationsResponse{}
			for token := ""; ; {
				page, err := call(ctx, in, c.Access().ListRevocations, &kryptonv1.ListRevocationsRequest{PageSize: pageSize, PageToken: token})
				if err != nil {
					return err
				}
				all.Revocations = append(all.Revocations, page.GetRevocations()...)
				if token = page.GetNextPageToken(); token == "" {
					break
				}
			}
			return in.show(all, func() string {
				g := grid{head: []string{"SERIAL", "IDENTITY", "REVOKED", "BY", "EXPIRES", "REASON"}}
				for _, r := range all.GetRevocations() {
					g.add(r.GetSerial(), r.GetIdentity(), when(r.GetRevokeTime()), r.GetRevokedBy(), when(r.GetExpireTime()), r.GetReason())
				}
				return g.text()
			})
		},
	}
}

func revocationSheet(r *kryptonv1.Revocation) string {
	var s sheet
	s.add("revoked", r.GetSerial())
	s.add("identity", r.GetIdentity())
	s.add("by", r.GetRevokedBy())
	s.add("at", when(r.GetRevokeTime()))
	s.add("expires", when(r.GetExpireTime()))
	s.add("reason", r.GetReason())
	return s.text()
}
