package standin

import (
	"context"
	"hash/crc32"
	"sync"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// GCP stands in for Google Cloud KMS: Encrypt and Decrypt over gRPC, with the checksums.
type GCP struct {
	kmspb.UnimplementedKeyManagementServiceServer
	*Gate
	mu     sync.Mutex // guards the fields below
	keys   map[string]*secretKey
	refuse codes.Code // what all calls get; OK = none
}

// NewGCP starts a service that holds the keys of those names. It runs until its gate is closed.
func NewGCP(names ...string) (*GCP, error) {
	gate, err := NewGate()
	if err != nil {
		return nil, err
	}
	g := &GCP{Gate: gate, keys: make(map[string]*secretKey)}
	for _, name := range names {
		g.keys[name] = newSecretKey()
	}
	server := grpc.NewServer()
	kmspb.RegisterKeyManagementServiceServer(server, g)
	go func() { _ = server.Serve(gate) }()
	return g, nil
}

// Refuse makes all calls fail with that code.
func (g *GCP) Refuse(code codes.Code) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refuse = code
}

// Encrypt implements the service.
func (g *GCP) Encrypt(_ context.Context, in *kmspb.EncryptRequest) (*kmspb.EncryptResponse, error) {
	key, err := g.key(in.GetName())
	if err != nil {
		return nil, err
	}
	if !sumsUp(in.GetPlaintext(), in.GetPlaintextCrc32C()) || !sumsUp(in.GetAdditionalAuthenticatedData(), in.GetAdditionalAuthenticatedDataCrc32C()) {
		return nil, status.Error(codes.InvalidArgument, "The checksum does not match.")
	}
	if len(in.GetPlaintext()) > 64<<10 {
		return nil, status.Error(codes.InvalidArgument, "The plaintext is too large.")
	}
	ciphertext := key.encrypt(in.GetPlaintext(), in.GetAdditionalAuthenticatedData())
	return &kmspb.EncryptResponse{
		Name: in.GetName() + "/cryptoKeyVersions/1", Ciphertext: ciphertext, CiphertextCrc32C: sum(ciphertext),
		VerifiedPlaintextCrc32C: true, VerifiedAdditionalAuthenticatedDataCrc32C: true,
	}, nil
}

// Decrypt implements the service.
func (g *GCP) Decrypt(_ context.Context, in *kmspb.DecryptRequest) (*kmspb.DecryptResponse, error) {
	key, err := g.key(in.GetName())
	if err != nil {
		return nil, err
	}
	plaintext, err := key.decrypt(in.GetCiphertext(), in.GetAdditionalAuthenticatedData())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "Decryption failed: the ciphertext is invalid.")
	}
	return &kmspb.DecryptResponse{Plaintext: plaintext, PlaintextCrc32C: sum(plaintext), UsedPrimary: true}, nil
}

func (g *GCP) key(name string) (*secretKey, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refuse != codes.OK {
		return nil, status.Error(g.refuse, "refused by the stand-in")
	}
	if key, ok := g.keys[name]; ok {
		return key, nil
	}
	return nil, status.Errorf(codes.NotFound, "CryptoKey %s not found.", name)
}

func sum(data []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))))
}

func sumsUp(data []byte, given *wrapperspb.Int64Value) bool {
	return given != nil && given.GetValue() == sum(data).GetValue()
}
