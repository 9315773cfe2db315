// @trandaison/nuxt-3-auth with its own defaults; the API is at the page's own origin.
export default defineNuxtConfig({
  modules: ['@pinia/nuxt', '@trandaison/nuxt-3-auth'],
  ssr: false,
  telemetry: false,
  compatibilityDate: '2025-01-01',
  auth: { endpoints: { baseUrl: '/' } },
});
