package standin

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// The credentials that AWS takes.
const (
	AWSAccessKey = "AKIASTANDIN000000000"
	AWSSecretKey = "seeded-aws-secret"
)

// AWS stands in for AWS KMS: Encrypt and Decrypt of the JSON protocol, with requests signed by Signature Version 4.
type AWS struct {
	*Gate
	mu     sync.Mutex // guards the fields below
	keys   map[string]*secretKey
	refuse string // the error that all calls get; "" = none
	ids    []string
}

// NewAWS starts a service that holds the keys of those ARNs. It runs until its gate is closed.
func NewAWS(arns ...string) (*AWS, error) {
	gate, err := NewGate()
	if err != nil {
		return nil, err
	}
	a := &AWS{Gate: gate, keys: make(map[string]*secretKey), ids: arns}
	for _, arn := range arns {
		a.keys[arn] = newSecretKey()
	}
	go func() { _ = (&http.Server{Handler: a, ReadHeaderTimeout: time.Minute}).Serve(gate) }()
	return a, nil
}

// Refuse makes all calls fail with that error, such as `AccessDeniedException`.
func (a *AWS) Refuse(code string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuse = code
}

// awsRequest is what Encrypt and Decrypt have in common.
type awsRequest struct {
	KeyID             string            `json:"KeyId"`
	Plaintext         []byte            `json:"Plaintext"`
	CiphertextBlob    []byte            `json:"CiphertextBlob"`
	EncryptionContext map[string]string `json:"EncryptionContext"`
}

// ServeHTTP implements http.Handler.
func (a *AWS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	var answer map[string]any
	var code string
	switch {
	case err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-amz-json-1.1":
		code = "SerializationException"
	case !signed(r, body):
		code = "InvalidSignatureException"
	default:
		answer, code = a.handle(strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService."), body)
	}
	if code != "" {
		w.WriteHeader(http.StatusBadRequest)
		answer = map[string]any{"__type": code, "message": "refused by the stand-in"}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (a *AWS) handle(operation string, body []byte) (answer map[string]any, code string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var in awsRequest
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, "SerializationException"
	}
	key, known := a.keys[in.KeyID]
	switch {
	case a.refuse != "":
		return nil, a.refuse
	case !known:
		return nil, "NotFoundException"
	}
	context, err := json.Marshal(in.EncryptionContext) // sorted by name
	if err != nil {
		return nil, "SerializationException"
	}
	index := byte(slices.Index(a.ids, in.KeyID))
	switch operation {
	case "Encrypt":
		if len(in.Plaintext) == 0 || len(in.Plaintext) > 4096 {
			return nil, "ValidationException"
		}
		blob := append([]byte{1, index}, key.encrypt(in.Plaintext, context)...)
		return map[string]any{"KeyId": in.KeyID, "CiphertextBlob": blob, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}, ""
	case "Decrypt":
		if len(in.CiphertextBlob) < 2 || in.CiphertextBlob[0] != 1 || int(in.CiphertextBlob[1]) >= len(a.ids) {
			return nil, "InvalidCiphertextException"
		}
		if in.CiphertextBlob[1] != index {
			return nil, "IncorrectKeyException"
		}
		plaintext, err := key.decrypt(in.CiphertextBlob[2:], context)
		if err != nil {
			return nil, "InvalidCiphertextException"
		}
		return map[string]any{"KeyId": in.KeyID, "Plaintext": plaintext, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}, ""
	}
	return nil, "UnknownOperationException"
}

// signed signs the request once more, with the headers that it says are signed, and compares.
func signed(r *http.Request, body []byte) bool {
	authorization := r.Header.Get("Authorization")
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || time.Since(at).Abs() > 5*time.Minute {
		return false
	}
	fields := make(map[string]string)
	for _, field := range strings.Split(strings.TrimPrefix(authorization, "AWS4-HMAC-SHA256 "), ", ") {
		name, value, _ := strings.Cut(field, "=")
		fields[name] = value
	}
	scope := strings.Split(fields["Credential"], "/") // key, date, region, service, "aws4_request"
	if len(scope) != 5 || scope[3] != "kms" {
		return false
	}
	again, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+r.Host+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return false
	}
	for _, name := range strings.Split(fields["SignedHeaders"], ";") {
		if name != "host" && name != "content-length" {
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	digest := sha256.Sum256(body)
	credentials := aws.Credentials{AccessKeyID: AWSAccessKey, SecretAccessKey: AWSSecretKey}
	if err := v4.NewSigner().SignHTTP(r.Context(), credentials, again, hex.EncodeToString(digest[:]), "kms", scope[2], at); err != nil {
		return false
	}
	return again.Header.Get("Authorization") == authorization
}
