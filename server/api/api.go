// Package api is the HTTP contract in Go: the routes, parameters and documents
// that ../openapi.yaml describes. All of it is generated; change the description
// and run go generate. Documents that are words of the project are aliases of
// the root package's types.
package api

//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config config.yaml ../openapi.yaml
