module github.com/kelson-io/kelson/sdk

go 1.26.0
