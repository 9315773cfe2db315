// The interop suite: one run of everything, in this order. See README.md.

import './cases/login.mjs';
import './cases/refresh.mjs';
import './cases/logout.mjs';
import './cases/api_client.mjs';
import './cases/streams.mjs';
import './cases/pages.mjs';
import './cases/hostile.mjs';
import './cases/start.mjs';
import './cases/stop.mjs';
import './cases/demo.mjs';
import './cases/end.mjs';
