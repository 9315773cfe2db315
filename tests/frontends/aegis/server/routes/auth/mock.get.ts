export default defineOAuthMockEventHandler({});
