package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/fanfare-dev/fanfare/sandbox"
)

// webhookKey reads the key that signs the sandbox's webhooks, or makes one and keeps
// it for its owner alone: what was verified before a restart still is after it.
func webhookKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newWebhookKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the key of the webhooks: %w", err)
	}
	if block, _ := pem.Decode(text); block != nil {
		parsed, _ := x509.ParsePKCS8PrivateKey(block.Bytes)
		if key, ok := parsed.(*ecdsa.PrivateKey); ok && key.Curve == elliptic.P256() {
			return key, nil
		}
	}
	return nil, fmt.Errorf("read the key of the webhooks: %s is not a PKCS #8 key on the curve P-256; remove it, and a new one is made", path)
}

func newWebhookKey(path string) (*ecdsa.PrivateKey, error) {
	key := sandbox.NewWebhookKey()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err == nil {
		err = os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("keep the key of the webhooks: %w", err)
	}
	return key, nil
}
