package apm
