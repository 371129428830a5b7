"""The version of the package, where the build reads it too."""

VERSION = "0.1.0"
