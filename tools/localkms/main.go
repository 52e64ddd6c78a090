// Localkms is the key operations of AWS KMS for tests: the request handlers of
// nsmithuk/local-kms (MIT; written by the community, not by AWS), served on a unix
// socket, with the keys in a database in a directory.
//
// What is here is local-kms's behaviour: keys and aliases, their states, the
// encryption under them with an encryption context, import under RSA-2048, and the
// errors that belong to these. It does not authenticate anybody. Package
// keystore/keystoretest/awsserver starts the program and stands before it with
// what a cloud adds: TLS, signatures, policies, request ids, a trail, and the
// operations and errors that local-kms does not have.
//
// Two actions are ours, because local-kms has a clock and no way to move it:
// Krypton.Rotate does at once what it does to a key once a year, and
// Krypton.Elapse ends the waiting time of a scheduled deletion.
//
// It is a module of its own, so that its dependencies (the first AWS SDK among
// them) stay out of Krypton's. scripts/tool builds it. It ends when its standard
// input does, so that it never outlives who started it.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/nsmithuk/local-kms/src/cmk"
	"github.com/nsmithuk/local-kms/src/config"
	"github.com/nsmithuk/local-kms/src/data"
	"github.com/nsmithuk/local-kms/src/handler"
	"github.com/sirupsen/logrus"
)

// maxBody is above the largest request that KMS takes.
const maxBody = 64 << 10

// actions are the operations that tests need; local-kms has more.
var actions = map[string]func(*handler.RequestHandler) handler.Response{
	"CancelKeyDeletion":         (*handler.RequestHandler).CancelKeyDeletion,
	"CreateAlias":               (*handler.RequestHandler).CreateAlias,
	"CreateKey":                 (*handler.RequestHandler).CreateKey,
	"Decrypt":                   (*handler.RequestHandler).Decrypt,
	"DeleteAlias":               (*handler.RequestHandler).DeleteAlias,
	"DeleteImportedKeyMaterial": (*handler.RequestHandler).DeleteImportedKeyMaterial,
	"DescribeKey":               (*handler.RequestHandler).DescribeKey,
	"DisableKey":                (*handler.RequestHandler).DisableKey,
	"EnableKey":                 (*handler.RequestHandler).EnableKey,
	"Encrypt":                   (*handler.RequestHandler).Encrypt,
	"GetParametersForImport":    (*handler.RequestHandler).GetParametersForImport,
	"ImportKeyMaterial":         (*handler.RequestHandler).ImportKeyMaterial,
	"ScheduleKeyDeletion":       (*handler.RequestHandler).ScheduleKeyDeletion,
	"UpdateAlias":               (*handler.RequestHandler).UpdateAlias,
}

func main() {
	socket := flag.String("socket", "", "path of the unix socket to listen on")
	dir := flag.String("data", "", "directory of the database; made if it is not there")
	flag.StringVar(&config.AWSRegion, "region", "eu-central-1", "region in the keys' ARNs")
	flag.StringVar(&config.AWSAccountId, "account", "111122223333", "account in the keys' ARNs")
	flag.Parse()
	if err := run(*socket, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "localkms:", err)
		os.Exit(1)
	}
}

func run(socket, dir string) error {
	if socket == "" || dir == "" {
		return errors.New("-socket and -data are required")
	}
	config.DatabasePath = dir
	database := data.NewDatabase(dir)
	defer database.Close()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	// Its log has a line for every refusal, and what people sent in some.
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	server := &http.Server{Handler: &keys{database: database, logger: logger}, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	fmt.Println("ready")
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type keys struct {
	database *data.Database
	logger   *logrus.Logger
}

func (k *keys) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	service, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	var res handler.Response
	switch do, known := actions[action]; {
	case service == "Krypton":
		res = k.own(action, r.Body)
	case service == "TrentService" && known:
		res = do(handler.NewRequestHandler(r, k.logger, k.database))
	default:
		res = handler.New400ExceptionResponse("UnknownOperationException", "")
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(res.Code)
	_, _ = io.WriteString(w, res.Body)
}

// own does what only time does in local-kms.
func (k *keys) own(action string, body io.Reader) handler.Response {
	var in struct {
		KeyID string `json:"KeyId"`
	}
	if err := json.NewDecoder(body).Decode(&in); err != nil {
		return handler.NewSerializationExceptionResponse("")
	}
	key, err := k.database.LoadKey(in.KeyID)
	if err != nil {
		return handler.NewNotFoundExceptionResponse("Key '" + in.KeyID + "' does not exist")
	}
	aes, ok := key.(*cmk.AesKey)
	switch {
	case action == "Rotate" && ok:
		next := aes.NextKeyRotation
		aes.NextKeyRotation = time.Now().Add(-time.Second)
		aes.RotateIfNeeded()
		aes.NextKeyRotation = next
	case action == "Elapse" && key.GetMetadata().DeletionDate != 0:
		// local-kms removes it when it is next looked at.
		key.GetMetadata().DeletionDate = time.Now().Add(-time.Minute).Unix()
	default:
		return handler.New400ExceptionResponse("UnsupportedOperationException", "")
	}
	if err := k.database.SaveKey(key); err != nil {
		return handler.NewInternalFailureExceptionResponse(err.Error())
	}
	return handler.NewResponse(http.StatusOK, nil)
}
