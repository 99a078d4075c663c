import sys

from sslbook.cli import main

sys.exit(main())
