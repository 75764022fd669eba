// Starts Swagger UI on this server's own description; nothing is loaded from, or sent, anywhere else.
"use strict";

window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#explorer",
  deepLinking: true,
  docExpansion: "list",
  displayRequestDuration: true,
  filter: true,
  // A key typed here is forgotten with the page.
  persistAuthorization: false,
  tryItOutEnabled: true,
  validatorUrl: null,
  queryConfigEnabled: false,
});
